"""The TensorFlow engine: trained weights as constants in a graph that is reordered for speed."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from common.errors import UserError
from model import TRUNK, SRGAN_g
from tf1 import checkpoints, runtime
from tf1.folding import before_shuffle, fold_batch_norm
from tf1.layers import Network

# Makes all 8-bit input values exact in bfloat16; the first filters are divided by it.
INPUT_SCALE = 127.5 / 128


class GraphEngine:
    """TensorFlow implementation of upscaling.upscaler.Engine.

    Not thread-safe: oneDNN's convolutions give wrong results when two threads run the same graph.
    """

    live_trunk_tensors = 6  # skip, block input, two being computed, two copies

    def __init__(self, arrays: dict[str, np.ndarray], arguments: dict, settings, source):
        runtime.configure(settings)
        self._arrays, self._arguments, self._settings, self._source = arrays, arguments, settings, source
        self._stages: dict[tf.DType, _Stages] = {}  # by the dtype of their convolutions
        self.device = runtime.describe_device()
        self._dtype = runtime.compute_dtype(settings.precision)
        flags = runtime.cpu_flags()
        is_avx2 = "avx2" in flags and "avx512f" not in flags and not runtime.has_gpu()
        self._use_winograd = is_avx2 and self._dtype == tf.float32
        self.live_head_tensors = 6 if self._use_winograd else 3.5  # measured: 5.7
        net = self._stages_for(np.uint8).net
        self.num_filters = net.tensors[TRUNK].shape[-1]
        self.trunk_halo = math.ceil(net.reach[TRUNK])
        self.head_halo = math.ceil(max(net.reach.values()) - net.reach[TRUNK])

    def trunk(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 or uint16 [h, w, 3] -> float32 [h, w, num_filters]."""
        half_range = np.float32(np.iinfo(pixels.dtype).max / 2)
        lr = (pixels - half_range) * np.float32(INPUT_SCALE / half_range)
        stages = self._stages_for(pixels.dtype)
        return _run(stages.session, stages.trunk, stages.t_image, lr)

    def head(self, features: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """float32 [h, w, num_filters] -> [scale * h, scale * w, 3] in [-1, 1]; dtype: of the image."""
        stages = self._stages_for(dtype)
        return _run(stages.session, stages.outputs, stages.trunk, features)

    def close(self) -> None:
        for stages in self._stages.values():
            stages.session.close()

    def _stages_for(self, pixels: np.dtype) -> _Stages:
        """Builds the stages on first use; 16-bit images need float32, as bfloat16 has 8 significant bits."""
        dtype = self._dtype if pixels == np.uint8 else tf.float32
        if dtype not in self._stages:
            self._stages[dtype] = self._build(dtype)
        return self._stages[dtype]

    def _build(self, dtype: tf.DType) -> _Stages:
        arrays, arguments, source = self._arrays, self._arguments, self._source
        options = runtime.session_config(self._settings)
        on_gpu = runtime.has_gpu()
        if not on_gpu:
            runtime.allow_reduced_precision(options, dtype)
        with tf.Graph().as_default():
            t_image = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3], "t_image")
            try:
                # on a CPU, the graph optimiser inserts bfloat16
                net = SRGAN_g(t_image, norm=False, **arguments, dtype=dtype if on_gpu else tf.float32)
                outputs = tf.identity(net.outputs, "outputs")
            except (TypeError, ValueError, AssertionError, KeyError) as error:
                raise UserError(f"{source} describes an unknown network: {error}") from None
            try:
                folded = fold_batch_norm(arrays, net.norms)
                first_filters = net.all_params[0].op.name
                folded[first_filters] = folded[first_filters] / INPUT_SCALE
            except KeyError as error:
                raise UserError(f"{source} does not fit this network: it lacks {error}") from None
            with tf.compat.v1.Session(config=options) as session:
                checkpoints.assign(session, net.all_params, folded, source)
                frozen = freeze(session, outputs)
        if self._use_winograd:
            replace_upsampling(frozen)
        names = [tensor.name for tensor in (t_image, net.tensors[TRUNK], outputs)]
        with tf.Graph().as_default() as graph:
            ends = tf.graph_util.import_graph_def(frozen, name="", return_elements=names)
        return _Stages(net, tf.compat.v1.Session(graph=graph, config=options), *ends)


class _Stages(NamedTuple):
    """The network in one precision, in two stages: `t_image` to `trunk` and `trunk` to `outputs`."""

    net: Network
    session: tf.compat.v1.Session
    t_image: tf.Tensor
    trunk: tf.Tensor
    outputs: tf.Tensor


def _run(session: tf.compat.v1.Session, fetch: tf.Tensor, feed: tf.Tensor, image: np.ndarray) -> np.ndarray:
    """Feeds float32 [h, w, channels] to `feed` and returns `fetch` in the same layout."""
    try:
        return session.run(fetch, {feed: image[None]})[0]
    except tf.errors.ResourceExhaustedError:
        raise MemoryError from None


def freeze(session: tf.compat.v1.Session, output: tf.Tensor) -> tf.compat.v1.GraphDef:
    """Freezes a generator up to `output`, an identity op after its last layer, and reorders it for speed.

    Variables become constants, which are laid out for the hardware once, not at every use. Operations on
    single pixels commute with a pixel shuffle and move before it: ReLU, which then fuses with the preceding
    convolution, and a final 1x1 convolution, so that the last shuffle moves 12 channels instead of 256.
    """
    graph_def = tf.compat.v1.graph_util.convert_variables_to_constants(
        session, session.graph.as_graph_def(), [output.op.name]
    )
    nodes = {node.name: node for node in graph_def.node}

    def reader(node, op: str):
        """Returns the node that reads `node`, if it is the only one and of type `op`."""
        found = [other for other in graph_def.node if node.name in other.input]
        return found[0] if [other.op for other in found] == [op] else None

    def move_before(first, last, shuffle) -> None:
        """Moves the chain of nodes from `first` to `last` before `shuffle`."""
        source = shuffle.input[0]
        for node in graph_def.node:
            if node is not shuffle:
                node.input[:] = [shuffle.name if name == last.name else name for name in node.input]
        first.input[0], shuffle.input[0] = source, last.name

    for shuffle in [node for node in graph_def.node if node.op == "DepthToSpace"]:
        if relu := reader(shuffle, "Relu"):
            move_before(relu, relu, shuffle)
        conv = reader(shuffle, "Conv2D")
        if conv and tf.make_ndarray(_constant(nodes, conv.input[1])).shape[:2] == (1, 1):
            bias_add = reader(conv, "BiasAdd")
            constants = [_constant(nodes, node.input[1]) for node in (conv, bias_add)]
            moved = before_shuffle(*map(tf.make_ndarray, constants), shuffle.attr["block_size"].i)
            for constant, values in zip(constants, moved):
                constant.CopyFrom(tf.make_tensor_proto(values))
            move_before(conv, bias_add, shuffle)
    return graph_def


def replace_upsampling(graph_def: tf.compat.v1.GraphDef) -> None:
    """Replaces the 3x3 convolution before each pixel shuffle of a frozen graph by `conv3x3`, in place."""
    nodes = {node.name: node for node in graph_def.node}
    for shuffle in [node for node in graph_def.node if node.op == "DepthToSpace"]:
        conv = nodes[shuffle.input[0]]
        while conv.op != "Conv2D" or tf.make_ndarray(_constant(nodes, conv.input[1])).shape[0] == 1:
            conv = nodes[conv.input[0]]
        filters = tf.make_ndarray(_constant(nodes, conv.input[1]))
        with tf.Graph().as_default() as graph, tf.name_scope(f"{conv.name}/winograd"):
            x = tf.compat.v1.placeholder(tf.float32, [1, None, None, filters.shape[2]])
            y = conv3x3(x, filters)
        renamed = {x.op.name: conv.input[0], conv.name: y.op.name}
        graph_def.node.remove(conv)
        graph_def.node.extend(node for node in graph.as_graph_def().node if node.name != x.op.name)
        for node in graph_def.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]


def _constant(nodes: dict, name: str):
    """Returns a constant's TensorProto, looking through identities and casts."""
    while nodes[name].op != "Const":
        name = nodes[name].input[0]
    return nodes[name].attr["value"].tensor


# Winograd transforms, named as in Lavin and Gray 2016, section 4
CELL_PX = 4  # side of an output cell: 36 multiplications per channel pair instead of 144
POINTS = (0, 0.625, -0.625, 1.5, -1.5)  # and infinity; the usual 0, 1, -1, 2, -2 have four times the error
_others = [np.array([q for q in POINTS if q != p]) for p in POINTS]
B_T = np.array([[*np.poly(others)[::-1], 0] for others in _others] + [np.poly(POINTS)[::-1]])  # [6, 6]
G = np.vander(POINTS, 3, increasing=True) / [[np.prod(p - others)] for p, others in zip(POINTS, _others)]
G = np.vstack([G, [0, 0, 1]])  # [6, 3]
A_T = np.vstack([np.vander(POINTS, CELL_PX, increasing=True), [0, 0, 0, 1]]).T  # [4, 6]


def conv3x3(x: tf.Tensor, filters: np.ndarray) -> tf.Tensor:
    """float32 [1, h, w, c], filters [3, 3, c, n] -> [1, h, w, n], with zero padding.

    Uses Winograd's algorithm F(4x4, 3x3) (Winograd 1980; Lavin and Gray 2016).
    """
    channels, count = filters.shape[2:]
    height, width = tf.unstack(tf.shape(x)[1:3])
    rows, columns = -(-height // CELL_PX), -(-width // CELL_PX)
    below, right = CELL_PX * rows - height + 1, CELL_PX * columns - width + 1
    padded = tf.pad(x, [[0, 0], [1, below], [1, right], [0, 0]])
    cells = tf.image.extract_patches(padded, [1, 6, 6, 1], [1, CELL_PX, CELL_PX, 1], [1, 1, 1, 1], "VALID")
    cells = tf.reshape(tf.transpose(tf.reshape(cells, [-1, 36, channels]), [1, 0, 2]), [36, -1])
    cells = tf.reshape(np.kron(B_T, B_T) @ cells, [36, -1, channels])
    products = cells @ np.reshape(np.kron(G, G) @ filters.reshape(9, -1), [36, channels, count])
    y = np.kron(A_T, A_T) @ tf.reshape(products, [36, -1])
    y = tf.transpose(tf.reshape(y, [CELL_PX, CELL_PX, rows, columns, count]), [2, 0, 3, 1, 4])
    return tf.reshape(y, [1, CELL_PX * rows, CELL_PX * columns, count])[:, :height, :width]
