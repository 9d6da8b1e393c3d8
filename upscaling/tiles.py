"""Rectangles of pixels, and how an image is cut into them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


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

    def fits(grid) -> bool:
        return math.prod(sides(*grid)) <= max_px

    # sides shorter than the halo only add halo
    most_rows, most_columns = (max(1, -(-side // max(halo, 16))) for side in (height, width))
    grids = [(r, c) for r in range(1, most_rows + 1) for c in range(1, most_columns + 1)]
    grids = list(filter(fits, grids)) or [(most_rows, most_columns)]
    rows, columns = min(grids, key=lambda grid: math.prod(grid) * math.prod(sides(*grid)))
    tops = np.linspace(box.top, box.bottom, rows + 1).astype(int).tolist()
    lefts = np.linspace(box.left, box.right, columns + 1).astype(int).tolist()
    for top, bottom in itertools.pairwise(tops):
        for left, right in itertools.pairwise(lefts):
            yield Box(top, left, bottom, right)
