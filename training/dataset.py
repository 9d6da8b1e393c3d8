"""HR patches for training: folders or sample photographs -> uint8 batches in a resumable order."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from images import files, photos

# One crop for each square of so many patch sides of a picture: few enough to differ, and enough to make
# decoding cheap beside a training step
_CROP_SIDES = 2.5
_POOL_BYTES = 64 * 2**20  # crops cut ahead of their turn
CACHE_BYTES = 2**30  # decoded pictures that are kept
_STEPS_AHEAD = 4

log = logging.getLogger("srgan")


class _Plan(NamedTuple):
    """One epoch's crops in training order; each field is an array [steps * batch_size]."""

    pictures: np.ndarray
    tops: np.ndarray
    lefts: np.ndarray
    symmetries: np.ndarray  # 0-7: quarter turns, plus 4 when mirrored afterwards
    exposures: np.ndarray  # levels to add
    visits: np.ndarray  # crops with the same number are cut from one decoding


class Dataset:
    """Random HR patches of a folder's pictures, the same ones for the same (seed, epoch)."""

    def __init__(
        self,
        hr_img_path: str | os.PathLike,
        *,
        patch_size: int,
        batch_size: int,
        seed: int,
        crops_per_image: int | None = None,
        augment: bool = True,
        exposures: float = 0.0,
        setting: str = "TRAIN.hr_img_path",
    ) -> None:
        """Reads image headers only; `setting` names `hr_img_path` in errors.

        crops_per_image: patches of a picture in an epoch; None: by its area.
        """
        assert min(patch_size, batch_size, seed + 1) > 0, (patch_size, batch_size, seed)
        self.patch_size = patch_size
        self.batch_size = batch_size
        self._seed = seed
        self._augment, self._exposures = augment, exposures
        if hr_img_path == photos.SAMPLE:
            paths = [photos.packaged(*file) for file in photos.SAMPLE_FILES.values()]
        else:
            paths = files.list_pictures(hr_img_path, setting)
        sizes = [files.size_of(path) for path in paths]
        large = [min(size) >= patch_size for size in sizes]
        self._report_small([path for path, fits in zip(paths, large) if not fits], setting)
        self._paths = [path for path, fits in zip(paths, large) if fits]
        if not self._paths:
            raise UserError(
                f"{setting}: every picture in {str(hr_img_path)!r} is smaller than the patch of "
                f"{patch_size} x {patch_size} px; use larger pictures or smaller patches."
            )
        self._sizes = np.array([size for size, fits in zip(sizes, large) if fits])  # [n, (h, w)]
        if crops_per_image is None:
            areas = self._sizes.prod(axis=1) / (_CROP_SIDES * patch_size) ** 2
            self._crops = np.maximum(1, np.rint(areas)).astype(np.int64)
        else:
            self._crops = np.full(len(self._paths), crops_per_image)
        self._cache: dict[int, np.ndarray] = {}
        self._cache_room = CACHE_BYTES

    @property
    def num_images(self) -> int:
        """Pictures that are large enough for a patch."""
        return len(self._paths)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; the last one is filled up with the epoch's first crops."""
        return math.ceil(int(self._crops.sum()) / self.batch_size)

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[np.ndarray]:
        """uint8 [batch_size, patch_size, patch_size, 3] for each step of an epoch from a step on.

        A pool of threads decodes and cuts a few steps ahead; closing the iterator ends it. All crops of a
        visit are cut together and wait for their turn.
        """
        assert 0 <= first_step <= self.steps_per_epoch, (first_step, self.steps_per_epoch)
        plan, size = self._plan(epoch), self.batch_size
        positions: dict[int, list[int]] = {}  # of each visit
        for position in range(first_step * size, len(plan.visits)):
            positions.setdefault(plan.visits[position], []).append(position)
        crops: dict[int, Future] = {}  # of each visit that has begun
        unbegun = iter(list(positions))  # the first needed first
        upcoming = next(unbegun, None)
        # half the cores: the other half prepares and runs the training step
        threads = min(8, max(1, (os.cpu_count() or 1) // 2))
        pool = ThreadPoolExecutor(threads, thread_name_prefix="srgan-input")
        try:
            for step in range(first_step, self.steps_per_epoch):
                ahead = (step + 1 + _STEPS_AHEAD) * size
                while upcoming is not None and positions[upcoming][0] < ahead:
                    crops[upcoming] = pool.submit(self._cut_crops, plan, positions[upcoming])
                    upcoming = next(unbegun, None)
                here = range(step * size, (step + 1) * size)
                batch = np.stack([crops[plan.visits[position]].result()[position] for position in here])
                for visit in set(plan.visits[here.start : here.stop]):
                    if positions[visit][-1] < here.stop:
                        del crops[visit]
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def fixed_patches(self, count: int) -> np.ndarray:
        """uint8 [count, patch_size, patch_size, 3]: centres of the first pictures by name."""
        px = self.patch_size
        patches = np.empty((count, px, px, 3), np.uint8)
        for i in range(count):
            picture = i % self.num_images
            top, left = (self._sizes[picture] - px) // 2
            patches[i] = self._picture(picture)[top : top + px, left : left + px]
        return patches

    def _plan(self, epoch: int) -> _Plan:
        """The crops of an epoch, a function of (seed, epoch) alone."""
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(self.num_images)
        pictures = np.repeat(order, self._crops[order])
        visits = np.repeat(np.arange(self.num_images), self._crops[order])
        tops, lefts = rng.integers(self._sizes[pictures].T - self.patch_size + 1)
        symmetries = rng.integers(8 if self._augment else 1, size=len(pictures))
        # A picture's crops are cut together and wait for their turn, spread so that a batch has
        # about one of them; as many may wait as the longest spread, which the pool limits.
        pool = _POOL_BYTES // (3 * self.patch_size**2)
        spread = np.minimum((self._crops[pictures] - 1) * self.batch_size, pool)
        turns = np.argsort(np.arange(len(pictures)) + spread * rng.random(len(pictures)))
        # so many levels that much of a patch is wholly black, or now and then wholly white
        levels = rng.integers(64, 192, size=len(pictures)) * rng.choice([-1, -1, -1, 1], size=len(pictures))
        exposures = np.where(rng.random(len(pictures)) < self._exposures, levels, 0)
        # The last batch's filling is decoded once more, at the end, instead of kept all along.
        turns = np.resize(turns, self.steps_per_epoch * self.batch_size)
        visits = visits[turns]
        visits[len(pictures) :] += self.num_images
        return _Plan(*(field[turns] for field in (pictures, tops, lefts, symmetries, exposures)), visits)

    def _cut_crops(self, plan: _Plan, positions: list[int]) -> dict[int, np.ndarray]:
        """{position: patch} of one visit."""
        image, px = self._picture(plan.pictures[positions[0]]), self.patch_size
        patches = {}
        for i in positions:
            top, left = plan.tops[i], plan.lefts[i]
            patch = np.rot90(image[top : top + px, left : left + px], plan.symmetries[i])
            if plan.exposures[i]:
                patch = np.clip(patch + plan.exposures[i], 0, 255).astype(np.uint8)
            # a copy: a view would keep the whole picture
            patches[i] = np.array(patch[:, ::-1] if plan.symmetries[i] >= 4 else patch)
        return patches

    def _picture(self, picture: int) -> np.ndarray:
        """A decoded picture. The first that fit the budget stay, none makes room for another:
        each is used once an epoch, so the least recently used one is the next to be needed."""
        if picture in self._cache:
            return self._cache[picture]
        path = self._paths[picture]
        image = files.read_rgb(path)
        height, width = self._sizes[picture]
        if image.shape[:2] != (height, width):
            raise UserError(f"{str(path)!r} is not {width} x {height} px any more; start again.")
        if image.nbytes <= self._cache_room:
            self._cache[picture] = image
            self._cache_room -= image.nbytes
        return image

    def _report_small(self, paths: list[Path], setting: str) -> None:
        if paths:
            names = ", ".join(str(path) for path in paths[:5])
            more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
            log.warning(
                "%s: left out %d pictures smaller than the patch of %d px: %s%s",
                *(setting, len(paths), self.patch_size, names, more),
            )
