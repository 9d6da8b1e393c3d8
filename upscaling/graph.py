"""The engine that TensorFlow runs: trained weights as an inference graph in two stages."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from common.errors import UserError
from model import TRUNK, SRGAN_g
from tf1 import checkpoints, runtime
from tf1.folding import fold_batch_norm
from tf1.layers import Network
from upscaling.freeze import freeze, replace_upsampling

# Scales the input so that each of 256 levels is a bfloat16 number; the first filters make up for it.
INPUT_SCALE = 127.5 / 128


class GraphEngine:
    """The engine of upscaling.upscaler that TensorFlow runs.

    One call at a time: oneDNN's convolutions spoil each other's results when two threads run one graph.
    """

    live_trunk_tensors = 6  # skip, block input, two in work, two copies

    def __init__(self, arrays: dict[str, np.ndarray], arguments: dict, settings, source):
        self._arrays, self._arguments, self._settings, self._source = arrays, arguments, settings, source
        self._stages: dict[tf.DType, _Stages] = {}  # by the precision of their convolutions
        self._dtype = runtime.compute_dtype(settings.precision)
        flags = runtime.cpu_flags()
        is_avx2 = "avx2" in flags and "avx512f" not in flags and not runtime.has_gpu()
        self._use_winograd = is_avx2 and self._dtype == tf.float32
        self.live_head_tensors = 6 if self._use_winograd else 3.5  # measured: 5.7
        net = self._stages_for(np.uint8).net
        self.num_filters = net.tensors[TRUNK].shape[-1]
        self.trunk_halo = math.ceil(net.reach[TRUNK])
        self.head_halo = math.ceil(max(net.reach.values()) - net.reach[TRUNK])

    @property
    def device(self) -> str:
        return runtime.describe_device()

    def trunk(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 or uint16 [h, w, 3] -> float32 [h, w, num_filters]."""
        half_range = np.float32(np.iinfo(pixels.dtype).max / 2)
        lr = (pixels - half_range) * np.float32(INPUT_SCALE / half_range)
        stages = self._stages_for(pixels.dtype)
        return _run(stages.session, stages.trunk, stages.t_image, lr)

    def head(self, features: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """float32 [h, w, num_filters] -> [4h, 4w, 3] in [-1, 1]; dtype: that of the pixels."""
        stages = self._stages_for(dtype)
        return _run(stages.session, stages.outputs, stages.trunk, features)

    def close(self) -> None:
        for stages in self._stages.values():
            stages.session.close()

    def _stages_for(self, pixels: np.dtype) -> _Stages:
        """16-bit pixels are computed in float32, as bfloat16 keeps about 8 of their bits."""
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
        with tf.Graph().as_default() as graph:
            t_image = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3], "t_image")
            try:
                # on a CPU the graph optimiser brings bfloat16 in
                net = SRGAN_g(t_image, norm=False, **arguments, dtype=dtype if on_gpu else tf.float32)
                outputs = tf.identity(net.outputs, "outputs")
            except (TypeError, ValueError, AssertionError, KeyError) as error:
                raise UserError(f"{source} describes an unknown network: {error}") from None
            with tf.compat.v1.Session(config=options) as session:
                try:
                    folded = fold_batch_norm(arrays, net.norms)
                    first_filters = net.all_params[0].op.name
                    folded[first_filters] = folded[first_filters] / INPUT_SCALE
                except KeyError as error:
                    raise UserError(f"{source} does not fit this network: it lacks {error}") from None
                checkpoints.assign(session, net.all_params, folded, source)
                frozen = freeze(session, outputs)
                if self._use_winograd:
                    replace_upsampling(frozen)
        with tf.Graph().as_default() as graph:
            tf.graph_util.import_graph_def(frozen, name="")
        ends = (graph.get_tensor_by_name(t.name) for t in (t_image, net.tensors[TRUNK], outputs))
        return _Stages(net, tf.compat.v1.Session(graph=graph, config=options), *ends)


class _Stages(NamedTuple):
    """The network in one precision: `t_image` to `trunk`, `trunk` to `outputs`."""

    net: Network
    session: tf.compat.v1.Session
    t_image: tf.Tensor
    trunk: tf.Tensor
    outputs: tf.Tensor


def _run(session: tf.compat.v1.Session, fetch: tf.Tensor, feed: tf.Tensor, image: np.ndarray) -> np.ndarray:
    """float32 [h, w, channels] of one tensor -> that of another."""
    try:
        return session.run(fetch, {feed: image[None]})[0]
    except tf.errors.ResourceExhaustedError:
        raise MemoryError from None
