"""The two networks: generator SRGAN_g and discriminator SRGAN_d, as pure graph builders.

Shapes come from arguments, with defaults in config.py: the TensorLayer network of the note. Scope
names are the note's; a checkpoint's keys are scopes with TensorLayer 2's names of arrays.
"""

from __future__ import annotations

import tensorflow as tf

from config import config
from tf1.folding import PIXEL_SHUFFLES
from tf1.layers import (
    INITIALISERS,
    Add,
    BatchNorm,
    Conv2d,
    Dense,
    Flatten,
    Network,
    PRelu,
    SubpixelConv2d,
    leaky_relu,
)

GENERATOR, DISCRIMINATOR = config.MODEL.generator, config.MODEL.discriminator  # defaults
TRUNK = "add3"  # the sum that ends the residual trunk
LEAK = 0.2  # slope of the discriminator's leaky ReLU (Ledig et al. 2017, section 2.1)


def layout(network: str, arguments: dict | None = None, patch_px: int = 384) -> tuple[dict, dict[str, tuple]]:
    """Arguments and {variable: shape}, in graph order, of SRGAN_g or SRGAN_d; config.py's by default."""
    with tf.Graph().as_default():
        if network == "SRGAN_g":
            arguments = arguments or GENERATOR
            net = SRGAN_g(tf.zeros([1, 96, 96, 3]), **arguments)
        else:
            arguments = arguments or DISCRIMINATOR
            net, _ = SRGAN_d(tf.zeros([1, patch_px, patch_px, 3]), **arguments)
        return dict(arguments), {param.op.name: tuple(param.shape) for param in net.all_params}


def SRGAN_g(
    t_image: tf.Tensor,
    is_train: bool = False,
    reuse: bool = False,
    *,
    scale: int = GENERATOR.scale,
    num_blocks: int = GENERATOR.num_blocks,
    num_filters: int = GENERATOR.num_filters,
    first_kernel: int = GENERATOR.first_kernel,
    last_kernel: int = GENERATOR.last_kernel,
    activation: str = GENERATOR.activation,
    output_activation: str = GENERATOR.output_activation,
    init: str = "normal",
    norm: bool = True,
    dtype: tf.DType = tf.float32,
) -> Network:
    """[N, h, w, 3] in [-1, 1] -> `.outputs` [N, s h, s w, 3] in [-1, 1] (Ledig et al. 2017, fig. 4).

    The scale s is 4, as there, or 2, 3 or 8 (Lim et al. 2017, fig. 3). activation: 'relu' or 'prelu';
    output_activation: 'tanh' or 'linear'; init: 'normal' is N(0, 0.02 ** 2), 'fan_in' is N(0, 1 / fan_in).
    Without `norm`, for inference with folded weights, convolutions have biases in place of batch norm.
    Convolutions compute in `dtype`; outputs are float32.
    """
    assert t_image.shape.rank == 4 and t_image.shape[-1] == 3, t_image.shape
    assert activation in ("relu", "prelu") and output_activation in ("tanh", "linear")
    weights = INITIALISERS[init]
    relu = tf.nn.relu if activation == "relu" else None

    with tf.compat.v1.variable_scope("SRGAN_g", reuse=reuse):
        net = Network(tf.cast(t_image, dtype))

        def conv(filters, kernel, name, *, act=None, bias=True):
            net.add(Conv2d(filters, kernel, W_init=weights, bias=bias, act=act, name=name))

        def conv_norm(name, norm_name, *, act=None):
            conv(num_filters, 3, name, bias=not norm, act=None if norm else act)
            net.norms[f"SRGAN_g/{norm_name}"] = f"SRGAN_g/{name}"
            if norm:
                net.add(BatchNorm(is_train, act=act, name=norm_name))

        def prelu(name):
            if activation == "prelu":
                net.add(PRelu(name=name))

        conv(num_filters, first_kernel, "n64s1/c", act=relu)
        prelu("n64s1/a")
        head = net.outputs
        for i in range(num_blocks):
            block_input = net.outputs
            conv_norm(f"n64s1/c1/{i}", f"n64s1/b1/{i}", act=relu)
            prelu(f"n64s1/a1/{i}")
            conv_norm(f"n64s1/c2/{i}", f"n64s1/b2/{i}")
            net.add(Add(name=f"b_residual_add/{i}"), [block_input, net.outputs])
        conv_norm("n64s1/c/m", "n64s1/b/m")
        net.add(Add(name=TRUNK), [head, net.outputs])
        for i, factor in enumerate(PIXEL_SHUFFLES[scale], start=1):
            conv(factor**2 * num_filters, 3, f"n256s1/{i}")
            net.add(SubpixelConv2d(scale=factor, act=relu, name=f"pixelshufflerx{factor}/{i}"))
            prelu(f"n256s1/a/{i}")
        conv(3, last_kernel, "out")
        net.outputs = tf.cast(net.outputs, tf.float32)
        if output_activation == "tanh":
            net.outputs = tf.nn.tanh(net.outputs)
    return net


def SRGAN_d(
    input_images: tf.Tensor,
    is_train: bool = True,
    reuse: bool = False,
    *,
    convs: tuple = DISCRIMINATOR.convs,
    residual: tuple = DISCRIMINATOR.residual,
    dense: tuple = DISCRIMINATOR.dense,
    patch_gan: bool = DISCRIMINATOR.patch_gan,
    init: str = "normal",
    dtype: tf.DType = tf.float32,
) -> tuple[Network, tf.Tensor]:
    """[N, p, p, 3] in [-1, 1] -> (network, logits [M, 1]); `network.outputs` is their sigmoid.

    M is N, a logit per image; with patch_gan N times the positions of the last feature map, each of which
    judges its receptive field (Isola et al. 2017, section 3.2.2).

    convs: (kernel, stride, filters) in order, batch norm from the second on; residual: filters of the
    1x1 and 3x3 convolutions of a last residual block, () for none; dense: units of hidden dense
    layers. The paper's network is convs 3x3, no residual, dense (1024,) (Ledig et al. 2017, fig. 4).
    """
    assert input_images.shape.rank == 4 and input_images.shape[-1] == 3, input_images.shape
    assert patch_gan or input_images.shape[1:3].is_fully_defined(), "dense layers need a fixed patch size"
    weights = INITIALISERS[init]

    def lrelu(x):
        return leaky_relu(x, LEAK)

    with tf.compat.v1.variable_scope("SRGAN_d", reuse=reuse):
        net = Network(tf.cast(input_images, dtype))

        def conv_norm(filters, kernel, stride, conv_name, norm_name, act):
            net.add(Conv2d(filters, kernel, stride, W_init=weights, bias=False, name=conv_name))
            net.add(BatchNorm(is_train, act=act, name=norm_name))

        kernel, stride, filters = convs[0]
        net.add(Conv2d(filters, kernel, stride, W_init=weights, act=lrelu, name="h0/c"))
        for i, (kernel, stride, filters) in enumerate(convs[1:], start=1):
            linear = residual and i == len(convs) - 1  # the sum below is activated instead
            conv_norm(filters, kernel, stride, f"h{i}/c", f"h{i}/bn", None if linear else lrelu)
        if residual:
            block_input, block_filters = net.outputs, convs[-1][2]
            conv_norm(residual[0], 1, 1, "res/c", "res/bn", lrelu)
            conv_norm(residual[1], 3, 1, "res/c2", "res/bn2", lrelu)
            conv_norm(block_filters, 3, 1, "res/c3", "res/bn3", None)
            net.add(Add(act=lrelu, name="res/add"), [block_input, net.outputs])
        if patch_gan:
            net.outputs = tf.reshape(net.outputs, [-1, net.outputs.shape[-1]])
        else:
            net.add(Flatten(name="ho/flatten"))
        for i, units in enumerate(dense):
            net.add(Dense(units, act=lrelu, W_init=weights, name=f"ho/dense_{i}"))
        logits = net.add(Dense(1, W_init=weights, name="ho/dense"))
        net.outputs = tf.nn.sigmoid(logits)
    return net, logits
