"""Cuts and degrades training patches, in threads or in processes of their own."""

from __future__ import annotations

import contextlib
import logging
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.machine import memory_limit, usable_cores
from images import bicubic, files
from training import degradation as degrading

CACHE_BYTES = min(2**30, memory_limit() // 8)  # decoded images that are kept
_LOSING = threading.Lock()

log = logging.getLogger("srgan")


class Crop(NamedTuple):
    """Where a patch is cut, and how it is changed."""

    top: int
    left: int
    symmetry: int = 0  # 0-7: quarter turns, plus 4 when mirrored afterwards
    exposure: int = 0  # 8-bit value to add


class PatchCutter:
    """(LR, HR) patches of images; the random numbers of a patch depend on (seed, epoch, position) alone."""

    def __init__(self, paths: list[Path], sizes: np.ndarray, patch_size: int, scale: int, degradation: str):
        """sizes: [n, (h, w)]; degradation: as in `Dataset`."""
        self._paths, self._sizes = paths, sizes
        self._patch_size, self._scale, self._degradation = patch_size, scale, degradation
        self.cache_room = CACHE_BYTES
        self._cache: dict[Path, np.ndarray] = {}
        self._lost: set[Path] = set()  # could be read at the start, and cannot any more

    def cut(self, image_index: int, crops: list[Crop], seeds: list) -> list[tuple[np.ndarray, np.ndarray]]:
        """The patches of one image."""
        image = self.read(image_index)
        room_y, room_x = (side - self._patch_size + 1 for side in image.shape[:2])
        # the remainder changes nothing, unless another image is used instead
        crops = [crop._replace(top=crop.top % room_y, left=crop.left % room_x) for crop in crops]
        return [self.pair(image, crop, np.random.default_rng(seed)) for crop, seed in zip(crops, seeds)]

    def pair(self, image: np.ndarray, crop: Crop, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(LR, HR) of a patch: turned, mirrored, exposed, and made small."""
        scale, margin = self._scale, 0
        if self._degradation == "photo":
            margin = math.ceil(degrading.MARGIN_PX / scale) * scale
        rows, columns = (
            np.arange(start - margin, start + self._patch_size + margin) for start in (crop.top, crop.left)
        )
        region = image[
            bicubic.mirrored(rows, image.shape[0])[:, None], bicubic.mirrored(columns, image.shape[1])
        ]
        region = np.rot90(region, crop.symmetry)
        if crop.symmetry >= 4:
            region = region[:, ::-1]
        if crop.exposure:
            region = np.clip(region.astype(np.int16) + crop.exposure, 0, 255).astype(np.uint8)
        region = np.ascontiguousarray(region)
        if not margin:
            return bicubic.downsample(region, scale), region
        lr = degrading.degrade(region, scale, rng)
        lr_margin = margin // scale
        return lr[lr_margin:-lr_margin, lr_margin:-lr_margin], region[margin:-margin, margin:-margin]

    def read(self, first: int) -> np.ndarray:
        """An image by its index, or the next one that can still be read."""
        for index in (*range(first, len(self._paths)), *range(first)):
            path = self._paths[index]
            if path in self._lost:
                continue
            try:
                image = self._cached(path)
                if image.shape[:2] != (size := tuple(self._sizes[index])):
                    raise UserError(f"{path} is not {size[1]} x {size[0]} px any more")
                return image
            except UserError as error:
                self._lose(path, error)
        raise AssertionError("half of the images can be read")

    def _lose(self, path: Path, error: UserError) -> None:
        with _LOSING:
            if path not in self._lost:
                self._lost.add(path)
                log.warning("WARNING: %s; the next image is used instead", error)
        if 2 * len(self._lost) > len(self._paths):
            raise UserError(f"more than half of the images cannot be read any more; the last one: {error}")

    def _cached(self, path: Path) -> np.ndarray:
        """The first images that fit the budget stay in memory, none makes room for another: each is used
        once an epoch, so the least recently used one is the next to be needed."""
        if path in self._cache:
            return self._cache[path]
        image = files.read_rgb(path)
        if image.nbytes <= self.cache_room:
            self._cache[path] = image
            self.cache_room -= image.nbytes
        return image


@contextlib.contextmanager
def background(cutter: PatchCutter, processes: int) -> Iterator[Callable[..., Future]]:
    """`cutter.cut` in the background. An image always goes to the same process, which keeps it decoded.

    Python runs one thread at a time, which limits threads to twice the work of one. That keeps a CPU busy,
    and not a GPU.
    """
    if processes:
        spawn = multiprocessing.get_context("spawn")
        pools = [ProcessPoolExecutor(1, spawn, _start, (cutter, processes)) for _ in range(processes)]
        cut = _cut
    else:  # half the cores: the other half prepares and runs the training step
        pools = [ThreadPoolExecutor(min(8, max(1, usable_cores() // 2)), "srgan-input")]
        cut = cutter.cut
    try:
        yield lambda image, *args: pools[image % len(pools)].submit(cut, image, *args)
    finally:
        for pool in pools:
            pool.shutdown(wait=not processes, cancel_futures=True)


_of_process: PatchCutter


def _start(cutter: PatchCutter, processes: int) -> None:
    """Signals are the parent's matter; without it, also when it is killed, this process ends."""
    global _of_process
    _of_process = cutter
    cutter.cache_room //= processes
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _cut(*args) -> list[tuple[np.ndarray, np.ndarray]]:
    return _of_process.cut(*args)
