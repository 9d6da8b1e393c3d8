"""TensorLayer layers whose weights are TF1 variables: named by scope, shared by `reuse`.

TensorLayer 2 creates weights with `tf.Variable`, which ignores variable scopes, and never updates batch
norm's moving averages inside a graph. The subclasses here fix both. A layer computes in the dtype of its
input unless it says otherwise; its variables are float32.
"""

from __future__ import annotations

import math
import warnings
import zlib

import tensorflow as tf

from tf1.convolutions import conv2d
from tf1.folding import BATCH_NORM_EPSILON
from tf1.replicas import mean_of_replicas, num_replicas

# Importing TensorLayer creates an eager tensor, which starts threads and takes a GPU's memory
tf.compat.v1.disable_eager_execution()
with warnings.catch_warnings():  # TensorLayer uses deprecated Python and NumPy names
    warnings.simplefilter("ignore")
    import tensorlayer as tl

tl.logging.set_verbosity(tl.logging.WARN)

BATCH_NORM_DECAY = 0.9  # TensorLayer's default, kept by the note


class Normal:
    """Initial weights ~ N(mean, stddev ** 2), determined by the graph's seed and the variable's name."""

    def __init__(self, stddev: float, mean: float = 0.0):
        self.stddev, self.mean = stddev, mean

    def __call__(self, shape, name: str) -> tf.Tensor:
        # a stateful op: the graph optimiser would constant-fold a stateless one, on one thread
        return tf.random.normal(shape, self.mean, self.stddev, seed=zlib.crc32(name.encode()))


class FanIn:
    """Initial weights ~ N(0, gain / fan_in) (He et al. 2015 with gain 2; LeCun et al. 1998 with 1)."""

    def __init__(self, gain: float = 1.0):
        self.gain = gain

    def __call__(self, shape, name: str) -> tf.Tensor:
        return Normal((self.gain / math.prod(shape[:-1])) ** 0.5)(shape, name)


INITIALISERS = {"normal": Normal(0.02), "fan_in": FanIn()}  # the choices of TRAIN.init


class Constant:
    """Initial weights all equal to `value`."""

    def __init__(self, value: float):
        self.value = value

    def __call__(self, shape, name: str) -> tf.Tensor:
        return tf.fill(shape, self.value)


class ScopedLayer(tl.layers.Layer):
    """A TensorLayer layer that keeps its weights under `<current scope>/<layer name>/`."""

    trainable = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._nodes_fixed = True  # no TensorLayer model graph: inputs are plain tensors

    def _get_init_args(self, skip=3):
        return {}  # only TensorLayer's model files need them, and collecting them is slow

    def _get_weights(self, var_name, shape, init, trainable=True):
        with tf.compat.v1.variable_scope(self.name) as scope:
            full_name = f"{scope.name}/{var_name}"
            weight = tf.compat.v1.get_variable(
                var_name,
                shape=shape,
                dtype=tf.float32,
                initializer=lambda shape, **_: init(shape=shape, name=full_name),
                trainable=trainable and self.trainable,
                # batch norm's averages are equal on all replicas; optimisers reduce gradients
                aggregation=tf.VariableAggregation.NONE
                if trainable
                else tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
        weights = self._trainable_weights if trainable else self._nontrainable_weights
        weights.append(weight)
        return weight


class Conv2d(ScopedLayer, tl.layers.Conv2d):
    """2-D convolution with square filters, NHWC, "SAME" padding."""

    def __init__(self, filters, kernel, stride=1, *, W_init, bias=True, act=None, trainable=True, name=None):
        super().__init__(
            n_filter=filters,
            filter_size=(kernel, kernel),
            strides=(stride, stride),
            act=act,
            W_init=W_init,
            b_init=Constant(0.0) if bias else None,
            name=name,
        )
        self.trainable = trainable

    def forward(self, inputs):
        outputs = conv2d(inputs, tf.cast(self.W, inputs.dtype), self.strides[0], name=self.name)
        if self.b_init:
            outputs = tf.nn.bias_add(outputs, tf.cast(self.b, inputs.dtype))
        return self.act(outputs) if self.act else outputs


class Dense(ScopedLayer, tl.layers.Dense):
    """Fully connected layer, always computed in float32: its outputs are logits."""

    def __init__(self, units, *, W_init, act=None, name=None):
        super().__init__(units, act=act, W_init=W_init, b_init=Constant(0.0), name=name)

    def forward(self, inputs):
        return super().forward(tf.cast(inputs, tf.float32))


def leaky_relu(x: tf.Tensor, slope: float) -> tf.Tensor:
    """max(x, slope * x), with a gradient computed from the output.

    TensorFlow's gradient needs the input, which prevents fusion with the preceding operation.
    """

    @tf.custom_gradient
    def activation(x):
        y = tf.nn.leaky_relu(x, slope)
        return y, lambda dy: tf.raw_ops.LeakyReluGrad(gradients=dy, features=y, alpha=slope)

    return activation(x)


class BatchNorm(ScopedLayer, tl.layers.BatchNorm):
    """Batch norm over N, H, W with float32 statistics (Ioffe & Szegedy 2015).

    Training uses the statistics of the global batch over all replicas, and the training step must run
    `moving_average_updates()`. Inference uses the moving averages.
    """

    def __init__(self, is_train: bool, act=None, name=None):
        super().__init__(
            decay=BATCH_NORM_DECAY,
            epsilon=BATCH_NORM_EPSILON,
            act=act,
            beta_init=Constant(0.0),
            gamma_init=Normal(0.02, mean=1.0),
            moving_mean_init=Constant(0.0),
            moving_var_init=Constant(1.0),
            name=name,
        )
        self.is_train = is_train

    def forward(self, inputs):
        if not self.is_train:
            # not the fused op, which after a convolution is ten times slower in oneDNN without AVX-512
            outputs = self._normalise(inputs, self.moving_mean, self.moving_var)
        elif num_replicas() > 1:
            outputs = self._normalise(inputs, *self._moments_over_replicas(tf.cast(inputs, tf.float32)))
        else:
            empty = tf.zeros([0])
            outputs, self._batch_mean, self._batch_var, *_ = tf.raw_ops.FusedBatchNormV3(
                x=inputs,
                scale=self.gamma,
                offset=self.beta,
                mean=empty,
                variance=empty,
                epsilon=self.epsilon,
            )
        outputs = tf.cast(outputs, inputs.dtype)
        return self.act(outputs) if self.act else outputs

    def _normalise(self, inputs, mean, variance):
        values = tf.cast(inputs, tf.float32)
        return tf.nn.batch_normalization(values, mean, variance, self.beta, self.gamma, self.epsilon)

    def _moments_over_replicas(self, values):
        mean, variance = tf.nn.moments(values, [0, 1, 2])
        mean, square = tf.unstack(mean_of_replicas(tf.stack([mean, variance + mean**2])))
        variance = tf.nn.relu(square - mean**2)
        count = tf.cast(tf.size(values[..., 0]), tf.float32) * num_replicas()
        self._batch_mean = mean
        self._batch_var = variance * count / (count - 1)  # unbiased, like the fused op's
        return mean, variance

    def moving_average_updates(self, finite: tf.Tensor) -> list[tf.Operation]:
        assert self.is_train, "moving averages are updated only in training"
        pairs = ((self.moving_mean, self._batch_mean), (self.moving_var, self._batch_var))
        moves = [(average, (1 - self.decay) * (average - batch_value)) for average, batch_value in pairs]
        return [average.assign_sub(tf.where(finite, move, tf.zeros_like(move))).op for average, move in moves]


class PRelu(ScopedLayer):
    """max(x, 0) + alpha * min(x, 0), one alpha per channel (He et al. 2015: alpha starts at 0.25)."""

    def build(self, inputs_shape):
        self.alpha = self._get_weights("alpha", shape=(inputs_shape[-1],), init=Constant(0.25))

    def forward(self, inputs):
        return tf.nn.relu(inputs) - tf.cast(self.alpha, inputs.dtype) * tf.nn.relu(-inputs)


class SubpixelConv2d(ScopedLayer, tl.layers.SubpixelConv2d):
    """Pixel shuffle: [N, h, w, 4c] -> [N, 2h, 2w, c] for scale 2 (Shi et al. 2016)."""


class Add(ScopedLayer, tl.layers.Elementwise):
    """Sum of the inputs, for skip connections."""

    def __init__(self, act=None, name=None):
        super().__init__(combine_fn=tf.add, act=act, name=name)


class MaxPool2d(ScopedLayer, tl.layers.MaxPool2d):
    """Maximum over windows, NHWC."""


class Flatten(ScopedLayer, tl.layers.Flatten):
    """[N, ...] -> [N, product]."""


class Network:
    """A network's tensors, layers and variables, in graph order."""

    def __init__(self, inputs: tf.Tensor):
        self.inputs = self.outputs = inputs
        self.all_layers: list[tl.layers.Layer] = []
        self.all_params: list[tf.Variable] = []
        self.norms: dict[str, str] = {}  # scope of a batch norm, built or folded -> scope of its convolution
        self.tensors: dict[str, tf.Tensor] = {}  # layer name -> its output
        # layer name -> receptive field to each side, in px of `inputs`, if the layers form one chain
        self.reach: dict[str, float] = {}
        self._reach, self._scale = 0.0, 1

    def add(self, layer: tl.layers.Layer, inputs=None) -> tf.Tensor:
        """Applies `layer` to `inputs` (default: the network's last output) and returns its output."""
        self.outputs = layer(self.outputs if inputs is None else inputs)
        self.all_layers.append(layer)
        self.all_params.extend(layer.all_weights)
        self.tensors[layer.name] = self.outputs
        if isinstance(layer, Conv2d):
            self._reach += layer.filter_size[0] // 2 / self._scale
        elif isinstance(layer, SubpixelConv2d):
            self._scale *= layer.scale
        self.reach[layer.name] = self._reach
        return self.outputs

    def moving_average_updates(self, finite: tf.Tensor) -> list[tf.Operation]:
        """Returns ops that move all batch norm averages towards the batch's statistics, if `finite`."""
        norms = [layer for layer in self.all_layers if isinstance(layer, BatchNorm)]
        return [update for norm in norms for update in norm.moving_average_updates(finite)]

    def count_params(self) -> int:
        return sum(param.shape.num_elements() for param in self.all_params)

    def print_params(self) -> None:
        """Prints one line per variable: index, name, shape."""
        for index, param in enumerate(self.all_params):
            print(f"  param {index:3}: {param.op.name:40} {param.shape.as_list()}")
        print(f"  number of parameters: {self.count_params():,}")

    def print_layers(self) -> None:
        """Prints one line per layer: index, name, kind, output shape."""
        for index, layer in enumerate(self.all_layers):
            shape = self.tensors[layer.name].shape.as_list()
            print(f"  layer {index:3}: {layer.name:30} {type(layer).__name__:16} {shape}")
