"""Cuts and degrades training patches in threads or worker processes."""

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

CACHE_BYTES = min(2**30, memory_limit() // 8)  # limit for cached decoded images
_LOST_LOCK = threading.Lock()

log = logging.getLogger("srgan")


class Crop(NamedTuple):
    """Position of a patch and its augmentation."""

    top: int
    left: int
    symmetry: int = 0  # 0-7: number of quarter turns, plus 4 if mirrored afterwards
    exposure: int = 0  # 8-bit value to add


class PatchCutter:
    """Cuts (LR, HR) patches from images; caches decoded images if there is room."""

    def __init__(self, paths: list[Path], sizes: np.ndarray, patch_size: int, scale: int, degradation: str):
        """sizes: [n, (h, w)]; degradation: as in `Dataset`."""
        self._paths, self._sizes = paths, sizes
        self._patch_size, self._scale, self._degradation = patch_size, scale, degradation
        self.cache_room = CACHE_BYTES
        self._cache: dict[Path, np.ndarray] = {}
        self._lost: set[Path] = set()  # images that could be read at the start but no longer can

    def cut(self, image_index: int, crops: list[Crop], seeds: list) -> list[tuple[np.ndarray, np.ndarray]]:
        """Cuts the patches of one image; `seeds`: one per patch, for its degradation."""
        image = self.read(image_index)
        room_y, room_x = (side - self._patch_size + 1 for side in image.shape[:2])
        # % changes a crop only if another image, of another size, is used instead
        crops = [crop._replace(top=crop.top % room_y, left=crop.left % room_x) for crop in crops]
        return [self.pair(image, crop, np.random.default_rng(seed)) for crop, seed in zip(crops, seeds)]

    def pair(self, image: np.ndarray, crop: Crop, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Returns uint8 (LR, HR) of a patch, with LR by bicubic downsampling or by a degradation."""
        scale = self._scale
        if self._degradation == "bicubic":
            hr = self._crop(image, crop, 0)
            return bicubic.downsample(hr, scale), hr
        lr_margin = math.ceil(degrading.MARGIN_PX / scale)
        margin = lr_margin * scale
        region = self._crop(image, crop, margin)
        lr = degrading.degrade(region, scale, rng)
        return lr[lr_margin:-lr_margin, lr_margin:-lr_margin], region[margin:-margin, margin:-margin]

    def _crop(self, image: np.ndarray, crop: Crop, margin: int) -> np.ndarray:
        """Returns a patch with `margin` px around it; the image is mirrored at its edges."""
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
        return np.ascontiguousarray(region)

    def read(self, first: int) -> np.ndarray:
        """Returns the image with index `first`, or the next one that can still be read."""
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
        raise AssertionError("_lose raises before all are lost")

    def _lose(self, path: Path, error: UserError) -> None:
        with _LOST_LOCK:
            if path not in self._lost:
                self._lost.add(path)
                log.warning("WARNING: %s; the next image is used instead", error)
        if 2 * len(self._lost) > len(self._paths):
            raise UserError(f"more than half of the images cannot be read any more; the last one: {error}")

    def _cached(self, path: Path) -> np.ndarray:
        """Returns the decoded image and caches it if there is room; cached images are never evicted.

        Images are read in a new order each epoch, so no other caching policy would be much better.
        """
        if path in self._cache:
            return self._cache[path]
        image = files.read_rgb(path)
        if image.nbytes <= self.cache_room:
            self._cache[path] = image
            self.cache_room -= image.nbytes
        return image


@contextlib.contextmanager
def cutting_pool(cutter: PatchCutter, processes: int) -> Iterator[Callable[..., Future]]:
    """Yields a function that runs `cutter.cut` in the background; without `processes`, in threads.

    Each image is always cut by the same process, which caches it. Python's lock (GIL) limits threads to about
    twice the work of one thread, which is enough for training on a CPU but not on a GPU.
    """
    if processes:
        spawn = multiprocessing.get_context("spawn")
        pools = [ProcessPoolExecutor(1, spawn, _init_worker, (cutter, processes)) for _ in range(processes)]
        cut = _cut_in_worker
    else:  # half the cores: the other half prepares and runs the training step
        pools = [ThreadPoolExecutor(min(8, max(1, usable_cores() // 2)), "srgan-input")]
        cut = cutter.cut
    try:
        yield lambda image, *args: pools[image % len(pools)].submit(cut, image, *args)
    finally:
        for pool in pools:
            pool.shutdown(wait=not processes, cancel_futures=True)


_worker_cutter: PatchCutter


def _init_worker(cutter: PatchCutter, processes: int) -> None:
    """Ignores SIGINT and SIGTERM, which the parent handles, and exits when the parent dies."""
    global _worker_cutter
    _worker_cutter = cutter
    cutter.cache_room //= processes
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _cut_in_worker(*args) -> list[tuple[np.ndarray, np.ndarray]]:
    return _worker_cutter.cut(*args)
