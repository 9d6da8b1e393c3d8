"""Upscaling: trained weights as an inference graph, and the tile engine that bounds its memory.

The network is run in two stages, both in tiles that overlap by what their convolutions see, so that
the result equals that of the whole picture bit for bit: the trunk, deep but at LR resolution, in
large tiles; then the two upsampling stages, shallow but sixteen times as large, in small ones.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from common.errors import UserError
from images.bicubic import SCALE
from images.pixels import to_integers
from model import TRUNK, SRGAN_g
from tf1 import checkpoints, runtime
from tf1.layers import BATCH_NORM_EPSILON
from upscaling.tiles import Box, tiles

log = logging.getLogger("srgan")

SMALLEST_TILE_PX = 64 * 64  # a tile that does not fit in memory is halved down to this
LIVE_TRUNK_TENSORS = 6  # of LR size held at once: skip, block input, two in work, two copies
LIVE_HEAD_TENSORS = 3.5  # of 4h x 4w held at once
# Scales the input so that each of 256 levels is a bfloat16 number; the first filters make up for it.
INPUT_SCALE = 127.5 / 128


def load_generator(path: str | Path, blend: list[tuple[str, float]] = ()) -> tuple[dict, dict]:
    """Arrays and network arguments of a generator's npz, blended as (1 - sum of w) * a + sum of w * b."""
    arrays, meta = _read_generator(path)
    rest = 1.0 - sum(weight for _, weight in blend)
    mixed = {name: rest * array for name, array in arrays.items()} if blend else arrays
    for other_path, weight in blend:
        others, other_meta = _read_generator(other_path)
        shapes = {name: array.shape for name, array in others.items()}
        if shapes != {name: array.shape for name, array in arrays.items()} or any(
            other_meta["arguments"].get(key) != value for key, value in meta["arguments"].items()
        ):
            raise UserError(f"{other_path} cannot be blended with {path}: the networks differ")
        for name, array in others.items():
            mixed[name] = mixed[name] + weight * array
    return {name: array.astype(np.float32) for name, array in mixed.items()}, meta


def _read_generator(path: str | Path) -> tuple[dict, dict]:
    arrays, meta = checkpoints.read_npz(path)
    if meta.get("network") != "SRGAN_g":
        raise UserError(f"{path} holds {meta.get('network', 'a training state')}, not a generator")
    meta.get("arguments", {}).pop("init", None)  # of older files: how the network began
    for key in ("arguments", "recipe", "step"):
        if key not in meta:
            raise UserError(f"{path} is damaged or not a checkpoint: its __meta__ lacks {key}")
    return arrays, meta


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
    """x4 upscaling by trained weights: `upscaler(image)`; use as a context manager.

    One call at a time: oneDNN's convolutions spoil each other's results when two threads run one graph.
    """

    def __init__(self, arrays: dict[str, np.ndarray], arguments: dict, settings, *, source="weights"):
        """`arrays` and `arguments` as `load_generator` gives them; `settings` is config.RUNTIME."""
        dtype = runtime.compute_dtype(settings.precision)
        with tf.Graph().as_default() as graph:
            t_image = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3], "t_image")
            try:
                net = SRGAN_g(t_image, norm=False, **arguments)
            except (TypeError, AssertionError, KeyError) as error:
                raise UserError(f"{source} describes an unknown network: {error}") from None
            trunk = net.tensors[TRUNK]
            with tf.compat.v1.Session() as session:
                try:
                    folded = fold_batch_norm(arrays, net.norms)
                    first_filters = net.all_params[0].op.name
                    folded[first_filters] = folded[first_filters] / INPUT_SCALE
                except KeyError as error:
                    raise UserError(f"{source} does not fit this network: it lacks {error}") from None
                for name in sorted(folded.keys() - {param.op.name for param in net.all_params}):
                    raise UserError(f"{source} does not fit this network: it has {name} too")
                checkpoints.assign(session, net.all_params, folded, source)
                # constants can be laid out for the hardware once, variables at every use
                frozen = tf.compat.v1.graph_util.convert_variables_to_constants(
                    session, graph.as_graph_def(), [net.outputs.op.name]
                )
        with tf.Graph().as_default() as graph:
            tf.graph_util.import_graph_def(frozen, name="")
        self._t_image, self._trunk, self._outputs = (
            graph.get_tensor_by_name(tensor.name) for tensor in (t_image, trunk, net.outputs)
        )
        options = runtime.session_config(settings)
        runtime.allow_reduced_precision(options, dtype)
        self._session = tf.compat.v1.Session(graph=graph, config=options)

        filters = trunk.shape[-1]
        self._trunk_halo = math.ceil(net.reach[TRUNK])
        self._head_halo = math.ceil(max(net.reach.values()) - net.reach[TRUNK])
        budget = runtime.memory_budget(settings.memory_mb)
        self._trunk_px = int(budget / (LIVE_TRUNK_TENSORS * filters * 4))
        self._head_px = int(budget / (LIVE_HEAD_TENSORS * filters * 4 * SCALE**2))

    def __enter__(self) -> Upscaler:
        return self

    def __exit__(self, *_) -> None:
        self._session.close()

    def __call__(
        self,
        image: np.ndarray,
        progress: Callable[[float], None] = lambda share: None,
        *,
        self_ensemble: bool = False,
    ) -> np.ndarray:
        """uint8 or uint16 RGB [h, w, 3] -> same type [4h, 4w, 3].

        self_ensemble: the mean over eight flips and quarter turns (Timofte et al. 2016, section 3.6).
        `progress` is told the share that is done, in (0, 1], after each tile.
        """
        assert image.ndim == 3 and image.shape[2] == 3 and image.dtype in (np.uint8, np.uint16)
        if not self_ensemble:
            return self._upscale(image, lambda sr: to_integers(sr, image.dtype), progress)
        total = 0.0
        for view, (turns, flip) in enumerate(itertools.product(range(4), (1, -1))):
            turned = np.rot90(image, turns)[:, ::flip]
            sr = self._upscale(
                turned,
                lambda sr: np.clip(sr, -1.0, 1.0),
                lambda share, view=view: progress((view + share) / 8),
            )
            total += np.rot90(sr[:, ::flip], -turns)
        return to_integers(total / 8, image.dtype)

    def _upscale(self, image: np.ndarray, convert: Callable, progress: Callable) -> np.ndarray:
        """[h, w, 3] integers -> `convert` of the network's output in [-1, 1]."""
        while True:
            try:
                return self._upscale_tiled(image, convert, progress)
            except (tf.errors.ResourceExhaustedError, MemoryError):
                self._trunk_px, self._head_px = self._trunk_px // 2, self._head_px // 2
                if self._head_px < SMALLEST_TILE_PX:
                    raise UserError("there is too little memory for even the smallest tile") from None
                log.warning("Out of memory: going on with tiles of half the size")

    def _upscale_tiled(self, image: np.ndarray, convert: Callable, progress: Callable) -> np.ndarray:
        whole = Box(0, 0, *image.shape[:2])
        half_range = np.float32(np.iinfo(image.dtype).max / 2)
        result, done_px = None, 0
        for tile in tiles(whole, self._trunk_px, self._trunk_halo + self._head_halo):
            needed = tile.grown(self._head_halo, whole)
            seen = needed.grown(self._trunk_halo, whole)
            lr = (image[seen.slices()] - half_range) * np.float32(INPUT_SCALE / half_range)
            features = self._session.run(self._trunk, {self._t_image: lr[None]})
            features = features[0][needed.slices(seen)]
            for part in tiles(tile, self._head_px, self._head_halo):
                seen = part.grown(self._head_halo, whole)
                feed = {self._trunk: features[seen.slices(needed)][None]}
                sr = self._session.run(self._outputs, feed)[0]
                sr = convert(sr[part.slices(seen, SCALE)])
                if result is None:
                    result = np.empty((SCALE * whole.bottom, SCALE * whole.right, 3), sr.dtype)
                result[part.slices(scale=SCALE)] = sr
                done_px += part.area
                progress(done_px / whole.area)
        return result
