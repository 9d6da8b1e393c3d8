"""Training data: a folder or the sample photographs -> uint8 (LR, HR) batches in a resumable order."""

from __future__ import annotations

import logging
import math
import os
import threading
import zlib
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.machine import memory_limit, usable_cores
from images import bicubic, files, photos
from images.listing import list_images
from training import degradation as degrading

# An epoch takes one crop for each square of so many patch sides of an image: few enough to differ, and enough
# to make decoding cheap compared with training
_CROP_SIDES = 2.5
_POOL_BYTES = 64 * 2**20  # crops cut ahead of their turn
CACHE_BYTES = min(2**30, memory_limit() // 8)  # decoded images that are kept
_STEPS_AHEAD = 4
_CHECKED_BYTES = 2**16  # of each file, to notice changed images

Entry = tuple[int, int, int, int]  # size in bytes, checksum of the beginning, height, width
Listing = dict[str, Entry]  # by the path below the folder, with slashes

log = logging.getLogger("srgan")


class _Plan(NamedTuple):
    """One epoch's crops in training order; each field is an array [steps * batch_size]."""

    images: np.ndarray
    tops: np.ndarray
    lefts: np.ndarray
    symmetries: np.ndarray  # 0-7: quarter turns, plus 4 when mirrored afterwards
    exposures: np.ndarray  # 8-bit values to add
    visits: np.ndarray  # crops with the same number are cut from one decoding


class Dataset:
    """Random LR and HR patches of a folder's images, a function of (seed, epoch, position)."""

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
        setting: str = "TRAIN.hr_img_path",
    ) -> None:
        """Reads the header of every image; `setting` names the path in errors.

        Unreadable images are logged and left out; UserError if their fraction is above `max_bad_images`, or
        if no image is left. crops_per_image: patches of an image in an epoch; None: by its area. skip:
        folders below that are no training data. degradation: 'bicubic' makes LR as MATLAB does, 'photo' as
        training/degradation.py does.
        """
        assert degradation in ("bicubic", "photo"), degradation
        assert min(patch_size, batch_size, seed + 1) > 0, (patch_size, batch_size, seed)
        self.patch_size, self._scale = patch_size, scale
        self.batch_size = batch_size
        self._seed = seed
        self._augment, self._exposures = augment, exposures
        self._degradation = degradation
        self._cache: dict[Path, np.ndarray] = {}
        self._cache_room = CACHE_BYTES
        self._lost: set[Path] = set()  # could be read at the start, and cannot any more
        self._warned = threading.Lock()
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
        self._paths = [path for path, _ in readable]
        if not self._paths:
            raise UserError(
                f"{setting}: every image in {str(hr_img_path)!r} is smaller than the patch of "
                f"{patch_size} x {patch_size} px; use larger images or smaller patches."
            )
        self._sizes = np.array([size for _, size in readable])  # [n, (h, w)]
        if crops_per_image is None:
            areas = self._sizes.prod(axis=1) / (_CROP_SIDES * patch_size) ** 2
            self._crops = np.maximum(1, np.rint(areas)).astype(np.int64)
        else:
            self._crops = np.full(len(self._paths), crops_per_image)

    @property
    def num_images(self) -> int:
        """Images large enough for a patch."""
        return len(self._paths)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; the last one is filled up with the epoch's first crops."""
        return math.ceil(int(self._crops.sum()) / self.batch_size)

    def stream(
        self, epoch: int, first_step: int = 0, part: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of an epoch from a step on, and of all epochs that follow."""
        while True:
            yield from self.batches(epoch, first_step, part)
            epoch, first_step = epoch + 1, 0

    def batches(
        self, epoch: int, first_step: int = 0, part: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(LR, HR) for each step of an epoch from a step on.

        HR is uint8 [batch_size, patch_size, patch_size, 3], LR 1/scale of its sides.

        part: (i, n) gives part i of n, from 0, of each batch, and decodes no more than that.

        A pool of threads decodes and cuts a few steps ahead; closing the iterator ends it. All crops of a
        visit are cut together and wait for their turn.
        """
        assert 0 <= first_step <= self.steps_per_epoch, (first_step, self.steps_per_epoch)
        plan, size = self._plan(epoch), self.batch_size
        positions: dict[int, list[int]] = {}  # of each visit
        for step in range(first_step, self.steps_per_epoch):
            for position in self._positions(step, part):
                positions.setdefault(plan.visits[position], []).append(position)
        crops: dict[int, Future] = {}  # of each visit that has begun
        unbegun = iter(list(positions))  # the first needed first
        upcoming = next(unbegun, None)
        # half the cores: the other half prepares and runs the training step
        pool = ThreadPoolExecutor(min(8, max(1, usable_cores() // 2)), thread_name_prefix="srgan-input")
        try:
            for step in range(first_step, self.steps_per_epoch):
                ahead = (step + 1 + _STEPS_AHEAD) * size
                while upcoming is not None and positions[upcoming][0] < ahead:
                    crops[upcoming] = pool.submit(self._cut_crops, epoch, plan, positions[upcoming])
                    upcoming = next(unbegun, None)
                here = self._positions(step, part)
                pairs = [crops[plan.visits[position]].result()[position] for position in here]
                for visit in set(plan.visits[here.start : here.stop]):
                    if positions[visit][-1] < here.stop:
                        del crops[visit]
                lr, hr = map(np.stack, zip(*pairs))
                yield lr, hr
        finally:
            pool.shutdown(cancel_futures=True)

    def _positions(self, step: int, part: tuple[int, int]) -> range:
        """Of one part's crops of a step's batch in the epoch's order."""
        share = self.batch_size // part[1]
        first = step * self.batch_size + part[0] * share
        return range(first, first + share)

    def fixed_patches(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(LR, HR) of the centres of the first images by name, shapes as in `batches`."""
        pairs = []
        for i in range(count):
            image = self._decoded(i % self.num_images)
            top, left = (np.array(image.shape[:2]) - self.patch_size) // 2
            pairs.append(self._pair(image, top, left, rng=np.random.default_rng([self._seed, i])))
        lr, hr = map(np.stack, zip(*pairs))
        return lr, hr

    def _plan(self, epoch: int) -> _Plan:
        """The crops of an epoch, a function of (seed, epoch) alone."""
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(self.num_images)
        images = np.repeat(order, self._crops[order])
        visits = np.repeat(np.arange(self.num_images), self._crops[order])
        tops, lefts = rng.integers(self._sizes[images].T - self.patch_size + 1)
        symmetries = rng.integers(8 if self._augment else 1, size=len(images))
        # An image's crops are cut together and wait for their turn, spread so that a batch has
        # about one of them; as many may wait as the longest spread, which the pool limits.
        pool = _POOL_BYTES // (3 * self.patch_size**2)
        spread = np.minimum((self._crops[images] - 1) * self.batch_size, pool)
        turns = np.argsort(np.arange(len(images)) + spread * rng.random(len(images)))
        # so many levels that much of a patch is wholly black, or now and then wholly white
        levels = rng.integers(64, 192, size=len(images)) * rng.choice([-1, -1, -1, 1], size=len(images))
        exposures = np.where(rng.random(len(images)) < self._exposures, levels, 0)
        # The last batch's filling is decoded once more, at the end, instead of kept all along.
        turns = np.resize(turns, self.steps_per_epoch * self.batch_size)
        visits = visits[turns]
        visits[len(images) :] += self.num_images
        return _Plan(*(field[turns] for field in (images, tops, lefts, symmetries, exposures)), visits)

    def _cut_crops(self, epoch: int, plan: _Plan, positions: list[int]) -> dict:
        """{position: (LR, HR)} of one visit."""
        image, px = self._decoded(plan.images[positions[0]]), self.patch_size
        pairs = {}
        for i in positions:
            # the remainder changes nothing, unless another image is used instead
            top, left = plan.tops[i] % (image.shape[0] - px + 1), plan.lefts[i] % (image.shape[1] - px + 1)
            rng = np.random.default_rng([self._seed, epoch, i])
            pairs[i] = self._pair(image, top, left, plan.symmetries[i], plan.exposures[i], rng)
        return pairs

    def _pair(self, image, top: int, left: int, symmetry: int = 0, exposure: int = 0, rng=None):
        """(LR, HR) of the patch at (top, left), turned, mirrored and exposed."""
        scale, margin = self._scale, 0
        if self._degradation == "photo":
            margin = math.ceil(degrading.MARGIN_PX / scale) * scale
        rows, columns = (np.arange(start - margin, start + self.patch_size + margin) for start in (top, left))
        region = image[
            bicubic.mirrored(rows, image.shape[0])[:, None], bicubic.mirrored(columns, image.shape[1])
        ]
        region = np.rot90(region, symmetry)
        if symmetry >= 4:
            region = region[:, ::-1]
        if exposure:
            region = np.clip(region + exposure, 0, 255).astype(np.uint8)
        region = np.ascontiguousarray(region)
        if not margin:
            return bicubic.downsample(region, scale), region
        lr = degrading.degrade(region, scale, rng)
        lr_margin = margin // scale
        return lr[lr_margin:-lr_margin, lr_margin:-lr_margin], region[margin:-margin, margin:-margin]

    def _decoded(self, first: int) -> np.ndarray:
        """An image by its index, or the next one that can still be read."""
        for index in (*range(first, self.num_images), *range(first)):
            path = self._paths[index]
            if path in self._lost:
                continue
            try:
                image = self._read(path)
                if image.shape[:2] != (size := tuple(self._sizes[index])):
                    raise UserError(f"{path} is not {size[1]} x {size[0]} px any more")
                return image
            except UserError as error:
                self._lose(path, error)
        raise AssertionError("half of the images can be read")

    def _lose(self, path: Path, error: UserError) -> None:
        with self._warned:
            if path not in self._lost:
                self._lost.add(path)
                log.warning("WARNING: %s; the next image is used instead", error)
        if 2 * len(self._lost) > self.num_images:
            raise UserError(f"more than half of the images cannot be read any more; the last one: {error}")

    def _read(self, path: Path) -> np.ndarray:
        """The first images that fit the budget stay in memory, none makes room for another: each is used
        once an epoch, so the least recently used one is the next to be needed."""
        if path in self._cache:
            return self._cache[path]
        image = files.read_rgb(path)
        if image.nbytes <= self._cache_room:
            self._cache[path] = image
            self._cache_room -= image.nbytes
        return image

    def _look_at(self, paths, setting: str, max_bad: float) -> list[Entry | None]:
        """The entry of each image; None for those that cannot be read."""

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
            log.warning("WARNING: %s; it is left out", error)
        return [None if isinstance(entry, UserError) else entry for entry in looked]

    def _report_small(self, paths: list[Path], setting: str) -> None:
        if paths:
            names = ", ".join(str(path) for path in paths[:5])
            more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
            log.warning(
                "%s: left out %d images smaller than the patch of %d px: %s%s",
                *(setting, len(paths), self.patch_size, names, more),
            )
