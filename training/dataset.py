"""Training data: uint8 (LR, HR) batches from a folder or the sample photographs, in a resumable order."""

from __future__ import annotations

import logging
import math
import os
import zlib
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.machine import usable_cores
from images import files, photos
from images.listing import list_images
from training.patches import Crop, PatchCutter, cutting_pool

# Crops per image and epoch: area / (2.5 * patch_size) ** 2, few enough to differ but enough to make decoding
# cheap compared with training; more if the images would not fill a batch
_CROP_SIDES = 2.5
_POOL_BYTES = 64 * 2**20  # limit for crops that wait for their batch
_STEPS_AHEAD = 8
_CHECKED_BYTES = 2**16  # bytes of each file in its checksum, to detect changed images

Entry = tuple[int, int, int, int]  # file size in bytes, checksum, height, width
Listing = dict[str, Entry]  # by path relative to the folder, with slashes

log = logging.getLogger("srgan")


class _Plan(NamedTuple):
    """An epoch's crops in training order; each field is an array [steps * batch_size]."""

    images: np.ndarray
    visits: np.ndarray  # crops with the same number are cut together
    tops: np.ndarray
    lefts: np.ndarray
    symmetries: np.ndarray
    exposures: np.ndarray


class Dataset:
    """Random LR and HR patches of a folder's images, determined by (seed, epoch, position).

    An epoch here is always one pass over the images, regardless of TRAIN.steps_per_epoch.
    """

    def __init__(
        self,
        hr_img_path: str | os.PathLike,
        *,
        patch_size: int,
        scale: int,
        batch_size: int,
        seed: int,
        crops_per_image: int | None = None,
        augment: bool = True,
        exposures: float = 0.0,
        degradation: str = "bicubic",
        max_bad_images: float = 0.01,
        skip: Collection[Path] = (),
        processes: int = 0,
        setting: str = "TRAIN.hr_img_path",
    ) -> None:
        """Reads the header of every image; `setting` names the path in errors.

        Unreadable and small images are logged and skipped. Raises UserError if the unreadable fraction is
        above `max_bad_images` or no image is left. crops_per_image: per epoch; None: by area. degradation:
        'bicubic' for MATLAB's LR, 'photo' for that of training/degradation.py. skip: subfolders to ignore.
        processes: the number that cut patches; 0: threads cut them.
        """
        assert degradation in ("bicubic", "photo"), degradation
        assert min(patch_size, batch_size, seed + 1) > 0, (patch_size, batch_size, seed)
        self.patch_size = patch_size
        self.batch_size = batch_size
        self._seed = seed
        self._augment, self._exposures = augment, exposures
        self._processes = processes
        if hr_img_path == photos.SAMPLE:
            paths = [photos.packaged(*file) for file in photos.SAMPLE_FILES.values()]
            names = [path.name for path in paths]
        else:
            folder = Path(hr_img_path).resolve()
            below = [path.resolve() for path in skip if path.resolve() != folder]
            paths = list_images(hr_img_path, setting, below)
            names = [path.relative_to(hr_img_path).as_posix() for path in paths]
        looked = self._look_at(paths, setting, max_bad_images)
        self.listing: Listing = {name: entry for name, entry in zip(names, looked) if entry}
        readable = [(path, entry[2:]) for path, entry in zip(paths, looked) if entry]
        self._report_small([path for path, size in readable if min(size) < patch_size], setting)
        readable = [(path, size) for path, size in readable if min(size) >= patch_size]
        if not readable:
            raise UserError(
                f"{setting}: every image in {str(hr_img_path)!r} is smaller than the patch size, "
                f"{patch_size} x {patch_size} px; use larger images or smaller patches"
            )
        self._sizes = np.array([size for _, size in readable])  # [n, (h, w)]
        paths = [path for path, _ in readable]
        self._cutter = PatchCutter(paths, self._sizes, patch_size, scale, degradation)
        if crops_per_image is None:
            areas = self._sizes.prod(axis=1) / (_CROP_SIDES * patch_size) ** 2
            fewest = math.ceil(batch_size / len(paths))
            self._crops = np.maximum(fewest, np.rint(areas)).astype(np.int64)
        else:
            self._crops = np.full(len(paths), crops_per_image)

    @property
    def num_images(self) -> int:
        """Number of readable images that are large enough for a patch."""
        return len(self._sizes)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches per epoch; the last batch is filled up with the epoch's first crops."""
        return math.ceil(int(self._crops.sum()) / self.batch_size)

    def stream(
        self, epoch: int, first_step: int = 0, part: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (LR, HR) batches without end, from step `first_step` of an epoch on.

        HR is uint8 [batch_size, patch_size, patch_size, 3], LR has 1/scale of its sides. part: (i, n) yields
        part i of n, counted from 0, of each batch and cuts only those patches.

        Patches are cut in the background, a few steps ahead, until the iterator is closed. All crops of a
        visit to an image are cut together and kept until they are used.
        """
        with cutting_pool(self._cutter, self._processes) as cut:
            while True:
                yield from self._epoch(cut, epoch, first_step, part)
                epoch, first_step = epoch + 1, 0

    def _epoch(self, cut: Callable[..., Future], epoch: int, first_step: int, part: tuple[int, int]):
        assert 0 <= first_step <= self.steps_per_epoch, (first_step, self.steps_per_epoch)
        plan, size = self._plan(epoch), self.batch_size
        positions: dict[int, list[int]] = {}  # by visit
        for step in range(first_step, self.steps_per_epoch):
            for position in self._positions(step, part):
                positions.setdefault(plan.visits[position], []).append(position)
        patches: dict[int, Future] = {}  # by visit, for visits that have begun
        pending = list(reversed(positions))  # next visit last
        for step in range(first_step, self.steps_per_epoch):
            while pending and positions[pending[-1]][0] < (step + 1 + _STEPS_AHEAD) * size:
                visit = pending.pop()
                of_visit = positions[visit]
                rows = zip(*(field[of_visit].tolist() for field in plan[2:]))
                seeds = [[self._seed, epoch, position] for position in of_visit]
                image = int(plan.images[of_visit[0]])
                patches[visit] = cut(image, [Crop(*row) for row in rows], seeds)
            of_batch = self._positions(step, part)
            visits = plan.visits[of_batch.start : of_batch.stop]
            pairs = [
                patches[visit].result()[positions[visit].index(position)]
                for visit, position in zip(visits, of_batch)
            ]
            for visit in set(visits):
                if positions[visit][-1] < of_batch.stop:
                    del patches[visit]
            lr, hr = map(np.stack, zip(*pairs))
            yield lr, hr

    def _positions(self, step: int, part: tuple[int, int]) -> range:
        """Returns the positions in the epoch of one part of a step's batch."""
        share = self.batch_size // part[1]
        first = step * self.batch_size + part[0] * share
        return range(first, first + share)

    def fixed_patches(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (LR, HR) centre patches of the first images by name, shapes as in `stream`."""
        pairs = []
        for i in range(count):
            image = self._cutter.read(i % self.num_images)
            top, left = (np.array(image.shape[:2]) - self.patch_size) // 2
            pairs.append(self._cutter.pair(image, Crop(top, left), np.random.default_rng([self._seed, i])))
        lr, hr = map(np.stack, zip(*pairs))
        return lr, hr

    def _plan(self, epoch: int) -> _Plan:
        """Returns the crops of an epoch, determined by (seed, epoch)."""
        rng = np.random.default_rng([self._seed, epoch])
        shuffled = rng.permutation(self.num_images)
        images = np.repeat(shuffled, self._crops[shuffled])
        visits = np.repeat(np.arange(self.num_images), self._crops[shuffled])
        tops, lefts = rng.integers(self._sizes[images].T - self.patch_size + 1)
        symmetries = rng.integers(8 if self._augment else 1, size=len(images))
        # Crops of an image are cut together but spread so that a batch has about one of them. About as many
        # crops wait in memory as the largest spread, so the pool's size limits it.
        pool = _POOL_BYTES // (3 * self.patch_size**2)
        spread = np.minimum((self._crops[images] - 1) * self.batch_size, pool)
        order = np.argsort(np.arange(len(images)) + spread * rng.random(len(images)))
        # large enough to make much of a patch black, sometimes white
        levels = rng.integers(64, 192, size=len(images)) * rng.choice([-1, -1, -1, 1], size=len(images))
        exposures = np.where(rng.random(len(images)) < self._exposures, levels, 0)
        # Crops repeated to fill the last batch are cut again instead of being kept in memory.
        order = np.resize(order, self.steps_per_epoch * self.batch_size)
        visits = visits[order]
        visits[len(images) :] += self.num_images
        rest = (field[order] for field in (tops, lefts, symmetries, exposures))
        return _Plan(images[order], visits, *rest)

    def _look_at(self, paths, setting: str, max_bad: float) -> list[Entry | None]:
        """Returns the entry of each image, None if it cannot be read."""

        def look(path: Path) -> Entry | UserError:
            try:
                source = files.Source(path)
                with open(path, "rb") as file:
                    checksum = zlib.crc32(file.read(_CHECKED_BYTES))
                return (path.stat().st_size, checksum, source.height, source.width)
            except OSError as error:
                return UserError(f"cannot read {path}: {error.strerror}")
            except UserError as error:
                return error

        with ThreadPoolExecutor(usable_cores()) as pool:
            looked = list(pool.map(look, paths))
        bad = [entry for entry in looked if isinstance(entry, UserError)]
        if len(bad) > max_bad * len(paths):
            listed = "; ".join(map(str, bad[:5])) + (f"; and {len(bad) - 5} more" if len(bad) > 5 else "")
            raise UserError(
                f"{setting}: {len(bad)} of {len(paths)} images cannot be read, more than "
                f"TRAIN.max_bad_images = {max_bad:g} allows ({listed})"
            )
        for error in bad:
            log.warning("WARNING: %s; it is skipped", error)
        return [None if isinstance(entry, UserError) else entry for entry in looked]

    def _report_small(self, paths: list[Path], setting: str) -> None:
        if paths:
            names = ", ".join(str(path) for path in paths[:5])
            more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
            log.warning(
                "%s: skipped %d images smaller than the patch size of %d px: %s%s",
                *(setting, len(paths), self.patch_size, names, more),
            )
