"""Upscaling: trained weights as an inference graph, and the tile engine that bounds its memory.

The network is run in two stages, both in tiles that overlap by what their convolutions see, so that
the result equals that of the whole image bit for bit: the trunk, deep but at LR resolution, in
large tiles; then the upsampling stages, shallow but at up to HR resolution, in small ones.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from common.errors import UserError
from images.pixels import to_integers
from model import TRUNK, SRGAN_g, layout
from tf1 import checkpoints, runtime
from tf1.layers import BATCH_NORM_EPSILON, Network
from upscaling.freeze import freeze
from upscaling.tiles import Box, tiles

log = logging.getLogger("srgan")

SMALLEST_TILE_PX = 64 * 64  # a tile that does not fit in memory is halved down to this
LIVE_TRUNK_TENSORS = 6  # of LR size held at once: skip, block input, two in work, two copies
LIVE_HEAD_TENSORS = 3.5  # of 4h x 4w held at once
# Scales the input so that each of 256 levels is a bfloat16 number; the first filters make up for it.
INPUT_SCALE = 127.5 / 128


def load_generator(path: str | Path, blend: list[tuple[str, float]] = ()) -> tuple[dict, dict]:
    """Arrays and network arguments of a generator's npz, blended as (1 - sum of w) * a + sum of w * b."""
    arrays, meta = checkpoints.read_network(path, "SRGAN_g", layout)
    rest = 1.0 - sum(weight for _, weight in blend)
    mixed = {name: rest * array for name, array in arrays.items()} if blend else arrays
    for other_path, weight in blend:
        others, other_meta = checkpoints.read_network(other_path, "SRGAN_g", layout)
        shapes = {name: array.shape for name, array in others.items()}
        if shapes != {name: array.shape for name, array in arrays.items()} or any(
            other_meta["arguments"].get(key) != value for key, value in meta["arguments"].items()
        ):
            raise UserError(f"{other_path} cannot be blended with {path}: the networks differ")
        for name, array in others.items():
            mixed[name] = mixed[name] + weight * array
    return {name: array.astype(np.float32) for name, array in mixed.items()}, meta


def fold_batch_norm(arrays: dict[str, np.ndarray], norms: dict[str, str]) -> dict[str, np.ndarray]:
    """Weights with each batch norm multiplied into its convolution; `norms` is the network's.

    gamma * (x - mean) / sqrt(var + eps) + beta is a scale of the filters and a bias.
    """
    folded = dict(arrays)
    for norm, conv in norms.items():
        gamma, beta, mean, var = (
            folded.pop(f"{norm}/{name}") for name in ("gamma", "beta", "moving_mean", "moving_var")
        )
        scale = gamma / np.sqrt(var + BATCH_NORM_EPSILON)
        folded[f"{conv}/filters"] = arrays[f"{conv}/filters"] * scale
        folded[f"{conv}/biases"] = beta - mean * scale
    return folded


class Upscaler:
    """Upscaling by `scale` with trained weights: `upscaler(image)`; use as a context manager.

    One call at a time: oneDNN's convolutions spoil each other's results when two threads run one graph.
    """

    def __init__(self, arrays: dict[str, np.ndarray], arguments: dict, settings, *, source="weights"):
        """`arrays` and `arguments` as `load_generator` gives them; `settings` is config.RUNTIME."""
        self._arrays, self._arguments, self._settings, self._source = arrays, arguments, settings, source
        self.scale: int = arguments["scale"]
        self._stages: dict[tf.DType, _Stages] = {}  # by the precision of their convolutions
        self._dtype = runtime.compute_dtype(settings.precision)
        net = self._stages_in(self._dtype).net
        filters = net.tensors[TRUNK].shape[-1]
        self._trunk_halo = math.ceil(net.reach[TRUNK])
        self._head_halo = math.ceil(max(net.reach.values()) - net.reach[TRUNK])
        budget = runtime.memory_budget(settings.memory_mb)
        self._trunk_px = int(budget / (LIVE_TRUNK_TENSORS * filters * 4))
        self._head_px = int(budget / (LIVE_HEAD_TENSORS * filters * 4 * self.scale**2))

    def _stages_in(self, dtype: tf.DType) -> _Stages:
        """The graph and the session whose convolutions compute in `dtype`."""
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
        with tf.Graph().as_default() as graph:
            tf.graph_util.import_graph_def(frozen, name="")
        ends = (graph.get_tensor_by_name(t.name) for t in (t_image, net.tensors[TRUNK], outputs))
        return _Stages(net, tf.compat.v1.Session(graph=graph, config=options), *ends)

    def __enter__(self) -> Upscaler:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        for stages in self._stages.values():
            stages.session.close()

    def __call__(
        self,
        image: np.ndarray,
        progress: Callable[[float], None] = lambda share: None,
        *,
        self_ensemble: bool = False,
    ) -> np.ndarray:
        """uint8 or uint16 RGB [h, w, 3] -> same type [scale * h, scale * w, 3].

        16-bit images are computed in float32, as bfloat16 keeps about 8 of their bits.
        self_ensemble: the mean over eight flips and quarter turns (Timofte et al. 2016, section 3.6).
        `progress` is told the share that is done, in (0, 1], after each tile.
        """
        assert image.ndim == 3 and image.shape[2] == 3 and image.dtype in (np.uint8, np.uint16)
        stages = self._stages_in(self._dtype if image.dtype == np.uint8 else tf.float32)
        views = list(itertools.product(range(4), (1, -1))) if self_ensemble else [(0, 1)]
        while True:
            try:
                return self._upscale(stages, image, views, progress)
            except (tf.errors.ResourceExhaustedError, MemoryError):
                self._trunk_px, self._head_px = self._trunk_px // 2, self._head_px // 2
                if self._head_px < SMALLEST_TILE_PX:
                    raise UserError("there is too little memory for even the smallest tile") from None
                log.warning("Out of memory: going on with tiles of half the size")

    def _upscale(self, stages: _Stages, image: np.ndarray, views: list, progress: Callable) -> np.ndarray:
        """The mean of what the network makes of each view, (quarter turns, flip) of the image."""
        whole = Box(0, 0, *image.shape[:2])
        half_range, scale = np.float32(np.iinfo(image.dtype).max / 2), self.scale
        result = None
        done_px = 0
        mb = self._settings.memory_mb
        left = runtime.memory_budget(mb, scale**2 * image.nbytes) / runtime.memory_budget(mb)
        trunk_px, head_px = int(left * self._trunk_px), int(left * self._head_px)
        for tile in tiles(whole, trunk_px, self._trunk_halo + self._head_halo):
            needed = tile.grown(self._head_halo, whole)
            seen = needed.grown(self._trunk_halo, whole)
            lr = (image[seen.slices()] - half_range) * np.float32(INPUT_SCALE / half_range)
            total = 0.0  # of this tile only, since a whole result in floats is too large
            for view in views:
                features = _run_turned(stages, stages.trunk, stages.t_image, lr, view)[needed.slices(seen)]
                sr = np.empty(
                    (scale * (tile.bottom - tile.top), scale * (tile.right - tile.left), 3), np.float32
                )
                for part in tiles(tile, head_px, self._head_halo):
                    around = part.grown(self._head_halo, whole)
                    window = features[around.slices(needed)]
                    enlarged = _run_turned(stages, stages.outputs, stages.trunk, window, view)
                    sr[part.slices(tile, scale)] = enlarged[part.slices(around, scale)]
                    done_px += part.area
                    progress(done_px / (whole.area * len(views)))
                total = total + sr.clip(-1.0, 1.0)
            done = to_integers(total / len(views), image.dtype)
            if result is None:
                result = np.empty((scale * whole.bottom, scale * whole.right, 3), done.dtype)
            result[tile.slices(scale=scale)] = done
        return result


class _Stages(NamedTuple):
    """The network in one precision: `t_image` to `trunk`, `trunk` to `outputs`."""

    net: Network
    session: tf.compat.v1.Session
    t_image: tf.Tensor
    trunk: tf.Tensor
    outputs: tf.Tensor


def _run_turned(stages: _Stages, fetch: tf.Tensor, feed: tf.Tensor, window: np.ndarray, view) -> np.ndarray:
    """What the network makes of a turned and flipped window, turned and flipped back."""
    turns, flip = view
    turned = np.rot90(window, turns)[:, ::flip]
    made = stages.session.run(fetch, {feed: turned[None]})[0]
    return np.rot90(made[:, ::flip], -turns)
