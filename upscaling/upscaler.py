"""Upscaling with trained weights, in tiles that bound memory.

The network runs in two stages: the trunk, deep but at LR resolution, in large tiles; then the head, shallow
but at up to HR resolution, in small tiles. Tiles overlap by the receptive field, so the result equals that
of the whole image, up to rounding where an engine's order of summation depends on the tile's size.
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

SMALLEST_TILE_PX = 64 * 64  # tiles that do not fit in memory are halved down to this size


class Engine(Protocol):
    """A generator in two stages, which raise MemoryError if they run out of memory."""

    device: str  # description for the log
    num_filters: int  # channels between the stages
    trunk_halo: int  # receptive field of the trunk to each side, in px of LR
    head_halo: int  # receptive field of the head to each side, in px of the trunk's output
    live_trunk_tensors: float  # peak number of tensors of LR size with `num_filters` channels
    live_head_tensors: float  # peak number of tensors of SR size with `num_filters` channels

    def trunk(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 or uint16 [h, w, 3] -> float32 [h, w, num_filters]."""

    def head(self, features: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """float32 [h, w, num_filters] -> [scale * h, scale * w, 3] in [-1, 1]; dtype: of the image."""

    def close(self) -> None: ...


def _engine_class(name: str) -> Callable[..., Engine]:
    """Imports only the engine asked for: TensorFlow takes seconds to start."""
    if name.startswith("ncnn"):
        from upscaling.ncnn import NcnnEngine

        return functools.partial(NcnnEngine, use_vulkan=name == "ncnn-vulkan")
    start_tensorflow()
    from upscaling.graph import GraphEngine

    return GraphEngine


def _layout(network: str) -> tuple[dict, dict[str, tuple]]:
    """Calls model.layout; starts TensorFlow only if a file needs the layout."""
    start_tensorflow()
    from model import layout

    return layout(network)


def load_generator(path: str | Path, blend: list[tuple[str, float]] = ()) -> tuple[dict, dict]:
    """Returns a generator's float32 arrays and meta; blends arrays as (1 - sum(w)) * a + sum(w * b)."""
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
    """`upscaler(image)` upscales by `scale`; use it as a context manager.

    Not thread-safe: two threads must not run the same TensorFlow engine.
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
        """Takes arrays and meta["arguments"] of `load_generator`; settings: config.RUNTIME.

        source: names the weights in errors; engine: 'tensorflow', 'ncnn' or 'ncnn-vulkan'.
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
        """uint8 or uint16 RGB [h, w, 3] -> [scale * h, scale * w, 3], same type.

        self_ensemble: averages eight flips and quarter turns (Timofte et al. 2016, section 3.6).
        progress: called after each tile with the completed fraction, in (0, 1].
        """
        assert image.ndim == 3 and image.shape[2] == 3 and image.dtype in (np.uint8, np.uint16)
        views = list(itertools.product(range(4), (1, -1))) if self_ensemble else [(0, 1)]
        while True:
            try:
                return self._upscale(image, views, progress)
            except MemoryError:
                self._trunk_px, self._head_px = self._trunk_px // 2, self._head_px // 2
                if self._head_px < SMALLEST_TILE_PX:
                    raise UserError("there is too little memory even for the smallest tile") from None
                log.warning("Out of memory: continuing with tiles of half the size")

    def _upscale(self, image: np.ndarray, views: list, progress: Callable) -> np.ndarray:
        """Averages the network's outputs over `views`, each (quarter turns, flip) of the image."""
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
            total = 0.0  # per tile, because the whole result as floats would be too large
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
    """Runs a stage on a rotated and flipped window, and undoes both in the output."""
    turns, flip = view
    made = run(np.rot90(window, turns)[:, ::flip])
    return np.rot90(made[:, ::flip], -turns)


class Box(NamedTuple):
    """A rectangle of pixels; `bottom` and `right` are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)

    def grown(self, halo: int, limit: Box) -> Box:
        """Returns the box grown by `halo` pixels on each side, clipped to `limit`."""
        return Box(
            max(self.top - halo, limit.top),
            max(self.left - halo, limit.left),
            min(self.bottom + halo, limit.bottom),
            min(self.right + halo, limit.right),
        )

    def slices(self, origin: Box | None = None, scale: int = 1) -> tuple[slice, slice]:
        """Returns the box's index in an array whose top left corner is `origin`'s, enlarged by `scale`."""
        top, left = (origin.top, origin.left) if origin else (0, 0)
        return (
            slice(scale * (self.top - top), scale * (self.bottom - top)),
            slice(scale * (self.left - left), scale * (self.right - left)),
        )


def tiles(box: Box, max_px: int, halo: int) -> Iterator[Box]:
    """Cuts a box into a grid of nearly equal tiles whose area including the halo is at most `max_px`.

    Takes the grid with the smallest total area including halos. If no grid fits, takes the finest one.
    """
    height, width = box.bottom - box.top, box.right - box.left

    def sides(rows: int, columns: int) -> tuple[int, int]:
        side = -(-height // rows), -(-width // columns)
        return side[0] + 2 * halo * (rows > 1), side[1] + 2 * halo * (columns > 1)

    # tiles shorter than the halo would mostly consist of halo
    most_rows, most_columns = (max(1, -(-side // max(halo, 16))) for side in (height, width))
    grids = itertools.product(range(1, most_rows + 1), range(1, most_columns + 1))
    fitting = [grid for grid in grids if math.prod(sides(*grid)) <= max_px] or [(most_rows, most_columns)]
    rows, columns = min(fitting, key=lambda grid: math.prod(grid) * math.prod(sides(*grid)))
    tops = np.linspace(box.top, box.bottom, rows + 1).astype(int).tolist()
    lefts = np.linspace(box.left, box.right, columns + 1).astype(int).tolist()
    for (top, bottom), (left, right) in itertools.product(*map(itertools.pairwise, (tops, lefts))):
        yield Box(top, left, bottom, right)
