"""Upscaling by trained weights, in tiles that bound its memory.

The network is run in two stages, both in tiles that overlap by what their convolutions see, so that
the result equals that of the whole image bit for bit: the trunk, deep but at LR resolution, in
large tiles; then the upsampling stages, shallow but at up to HR resolution, in small ones.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from common.errors import UserError
from common.machine import memory_budget
from images.pixels import to_integers
from tf1 import checkpoints
from tf1.start import start_tensorflow

log = logging.getLogger("srgan")

SMALLEST_TILE_PX = 64 * 64  # a tile that does not fit in memory is halved down to this


class Engine(Protocol):
    """A generator in two stages, functions of arrays; they raise MemoryError where memory is short."""

    device: str  # in words
    num_filters: int  # channels between the stages
    trunk_halo: int  # LR px to each side that the trunk's output sees
    head_halo: int  # LR px to each side that the head's output sees of the trunk's
    live_trunk_tensors: float  # of LR size and `num_filters` channels, held at once
    live_head_tensors: float  # of SR size and `num_filters` channels

    def trunk(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 or uint16 [h, w, 3] -> float32 [h, w, num_filters]."""

    def head(self, features: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """float32 [h, w, num_filters] -> [scale * h, scale * w, 3] in [-1, 1]; dtype: that of the pixels."""

    def close(self) -> None: ...


def _engine_class(name: str) -> Callable[..., Engine]:
    """Imports one engine only: TensorFlow takes seconds to start."""
    if name.startswith("ncnn"):
        from upscaling.ncnn import NcnnEngine

        return functools.partial(NcnnEngine, use_vulkan=name == "ncnn-vulkan")
    start_tensorflow()
    from upscaling.graph import GraphEngine

    return GraphEngine


def _layout(network: str) -> tuple[dict, dict[str, tuple]]:
    """model.layout, for files that do not name their arrays."""
    start_tensorflow()
    from model import layout

    return layout(network)


def load_generator(path: str | Path, blend: list[tuple[str, float]] = ()) -> tuple[dict, dict]:
    """Arrays and network arguments of a generator's npz, blended as (1 - sum of w) * a + sum of w * b."""
    arrays, meta = checkpoints.read_network(path, "SRGAN_g", _layout)
    rest = 1.0 - sum(weight for _, weight in blend)
    mixed = {name: rest * array for name, array in arrays.items()} if blend else arrays
    for other_path, weight in blend:
        others, other_meta = checkpoints.read_network(other_path, "SRGAN_g", _layout)
        shapes = {name: array.shape for name, array in others.items()}
        if shapes != {name: array.shape for name, array in arrays.items()} or any(
            other_meta["arguments"].get(key) != value for key, value in meta["arguments"].items()
        ):
            raise UserError(f"{other_path} cannot be blended with {path}: the networks differ")
        for name, array in others.items():
            mixed[name] = mixed[name] + weight * array
    return {name: array.astype(np.float32) for name, array in mixed.items()}, meta


class Upscaler(contextlib.AbstractContextManager):
    """Upscaling by `scale` with trained weights: `upscaler(image)`; use as a context manager.

    One call at a time: two threads must not run one engine of TensorFlow's.
    """

    def __init__(
        self,
        arrays: dict[str, np.ndarray],
        arguments: dict,
        settings,
        *,
        source: str | Path = "weights",
        engine: str = "tensorflow",
    ):
        """`arrays` and `arguments` as `load_generator` gives them; `settings` is config.RUNTIME.

        engine: 'tensorflow', 'ncnn' or 'ncnn-vulkan'.
        """
        self._memory_mb = settings.memory_mb
        self.scale: int = arguments["scale"]
        self.engine = _engine_class(engine)(arrays, arguments, settings, source)
        px_per_tensor = memory_budget(settings.memory_mb) / (self.engine.num_filters * 4)
        self._trunk_px = int(px_per_tensor / self.engine.live_trunk_tensors)
        self._head_px = int(px_per_tensor / self.engine.live_head_tensors / self.scale**2)

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self.engine.close()

    def __call__(
        self,
        image: np.ndarray,
        progress: Callable[[float], None] = lambda share: None,
        *,
        self_ensemble: bool = False,
    ) -> np.ndarray:
        """uint8 or uint16 RGB [h, w, 3] -> same type [scale * h, scale * w, 3].

        self_ensemble: the mean over eight flips and quarter turns (Timofte et al. 2016, section 3.6).
        `progress` gets the fraction that is done, in (0, 1], after each tile.
        """
        assert image.ndim == 3 and image.shape[2] == 3 and image.dtype in (np.uint8, np.uint16)
        views = list(itertools.product(range(4), (1, -1))) if self_ensemble else [(0, 1)]
        while True:
            try:
                return self._upscale(image, views, progress)
            except MemoryError:
                self._trunk_px, self._head_px = self._trunk_px // 2, self._head_px // 2
                if self._head_px < SMALLEST_TILE_PX:
                    raise UserError("there is too little memory for even the smallest tile") from None
                log.warning("Out of memory: going on with tiles of half the size")

    def _upscale(self, image: np.ndarray, views: list, progress: Callable) -> np.ndarray:
        """The mean of what the network makes of each view, (quarter turns, flip) of the image."""
        whole, scale = Box(0, 0, *image.shape[:2]), self.scale
        trunk_halo, head_halo = self.engine.trunk_halo, self.engine.head_halo
        head = functools.partial(self.engine.head, dtype=image.dtype)
        result = None
        done_px = 0
        left = memory_budget(self._memory_mb, scale**2 * image.nbytes) / memory_budget(self._memory_mb)
        trunk_px, head_px = int(left * self._trunk_px), int(left * self._head_px)
        for tile in tiles(whole, trunk_px, trunk_halo + head_halo):
            needed = tile.grown(head_halo, whole)
            seen = needed.grown(trunk_halo, whole)
            total = 0.0  # of this tile only, since a whole result in floats is too large
            for view in views:
                features = _run_turned(self.engine.trunk, image[seen.slices()], view)[needed.slices(seen)]
                sr = np.empty(
                    (scale * (tile.bottom - tile.top), scale * (tile.right - tile.left), 3), np.float32
                )
                for part in tiles(tile, head_px, head_halo):
                    around = part.grown(head_halo, whole)
                    window = features[around.slices(needed)]
                    enlarged = _run_turned(head, window, view)
                    sr[part.slices(tile, scale)] = enlarged[part.slices(around, scale)]
                    done_px += part.area
                    progress(done_px / (whole.area * len(views)))
                total = total + sr.clip(-1.0, 1.0)
            done = to_integers(total / len(views), image.dtype)
            if result is None:
                result = np.empty((scale * whole.bottom, scale * whole.right, 3), done.dtype)
            result[tile.slices(scale=scale)] = done
        return result


def _run_turned(run: Callable, window: np.ndarray, view) -> np.ndarray:
    """Runs a stage on a turned and flipped window; its output is turned and flipped back."""
    turns, flip = view
    made = run(np.rot90(window, turns)[:, ::flip])
    return np.rot90(made[:, ::flip], -turns)


class Box(NamedTuple):
    """A rectangle of pixels; bottom and right are excluded."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)

    def grown(self, halo: int, limit: Box) -> Box:
        """The box and `halo` pixels around it, where `limit` has them."""
        return Box(
            max(self.top - halo, limit.top),
            max(self.left - halo, limit.left),
            min(self.bottom + halo, limit.bottom),
            min(self.right + halo, limit.right),
        )

    def slices(self, origin: Box | None = None, scale: int = 1) -> tuple[slice, slice]:
        """Index of the box in an array that begins at `origin`'s corner, `scale` times as large."""
        top, left = (origin.top, origin.left) if origin else (0, 0)
        return (
            slice(scale * (self.top - top), scale * (self.bottom - top)),
            slice(scale * (self.left - left), scale * (self.right - left)),
        )


def tiles(box: Box, max_px: int, halo: int) -> Iterator[Box]:
    """Cuts a box into a grid of nearly equal tiles whose area with halo is at most `max_px`.

    Of the grids that fit, the one with the least halo in all; one tile too small to fit is as it is.
    """
    height, width = box.bottom - box.top, box.right - box.left

    def sides(rows: int, columns: int) -> tuple[int, int]:
        side = -(-height // rows), -(-width // columns)
        return side[0] + 2 * halo * (rows > 1), side[1] + 2 * halo * (columns > 1)

    # sides shorter than the halo only add halo
    most_rows, most_columns = (max(1, -(-side // max(halo, 16))) for side in (height, width))
    grids = itertools.product(range(1, most_rows + 1), range(1, most_columns + 1))
    fitting = [grid for grid in grids if math.prod(sides(*grid)) <= max_px] or [(most_rows, most_columns)]
    rows, columns = min(fitting, key=lambda grid: math.prod(grid) * math.prod(sides(*grid)))
    tops = np.linspace(box.top, box.bottom, rows + 1).astype(int).tolist()
    lefts = np.linspace(box.left, box.right, columns + 1).astype(int).tolist()
    for (top, bottom), (left, right) in itertools.product(*map(itertools.pairwise, (tops, lefts))):
        yield Box(top, left, bottom, right)
