"""HR patches for training: folders or sample photographs -> uint8 batches in a resumable order."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

import utils
from utils import UserError

SAMPLE = "sample"
# Colour photographs inside the wheels of packages that TensorLayer and this program need anyway.
SAMPLE_FILES = {
    "chelsea": ("skimage", "data/chelsea.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "coffee": ("skimage", "data/coffee.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "grace_hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
}
VALIDATION_FILE = ("skimage", "data/astronaut.png")  # public domain (NASA)
_DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}

# 'auto' takes one crop for each square of so many patch sides of a picture: few enough to differ, and
# enough to make decoding cheap beside a training step
_AUTO_CROP_SIDES = 2.5
_POOL_BYTES = 64 * 2**20  # crops cut ahead of their turn
_STEPS_AHEAD = 4
_DECODED_BYTES = 4  # per pixel: Pillow pads RGB to four bytes

log = logging.getLogger("srgan")


def sample_photos() -> dict[str, np.ndarray]:
    """The embedded training photographs by name, uint8 [h, w, 3] RGB."""
    return {name: utils.read_image(_packaged(*SAMPLE_FILES[name])) for name in SAMPLE_FILES}


def validation_photo() -> np.ndarray:
    """An embedded photograph that is not among the training ones, uint8 [512, 512, 3] RGB."""
    return utils.read_image(_packaged(*VALIDATION_FILE))


def validation_image(hr_img_path: str | os.PathLike) -> np.ndarray:
    """uint8 [h, w, 3], sides multiples of 4: 'sample', a picture, or a folder's first picture."""
    if hr_img_path == SAMPLE:
        return validation_photo()
    path = Path(hr_img_path)
    if not path.is_file():
        path = utils.list_images(path, "VALID.hr_img_path")[0]
    return utils.crop_to_multiple(utils.read_image(path), 4)


def _packaged(package: str, file: str) -> Path:
    """Path of a file inside an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.submodule_search_locations[0], file) if spec else None
    if path is None or not path.is_file():
        raise UserError(
            f"The sample photo {package}/{file} is not installed; run "
            f"`pip install --force-reinstall {_DISTRIBUTIONS.get(package, package)}` "
            "or name a folder of pictures."
        )
    return path


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
        crops_per_image: int | str = "auto",
        augment: bool = True,
        exposures: float = 0.0,
        cache_mb: float = 1024,
        setting: str = "TRAIN.hr_img_path",
    ) -> None:
        """Reads image headers only; `setting` names `hr_img_path` in errors."""
        assert min(patch_size, batch_size, seed + 1) > 0, (patch_size, batch_size, seed)
        assert crops_per_image == "auto" or crops_per_image >= 1, crops_per_image
        self.patch_size = patch_size
        self.batch_size = batch_size
        self._seed = seed
        self._augment, self._exposures = augment, exposures
        if hr_img_path == SAMPLE:
            paths = [_packaged(*file) for file in SAMPLE_FILES.values()]
        else:
            paths = utils.list_images(hr_img_path, setting)
        sizes = [utils.image_size(path) for path in paths]
        large = [min(size) >= patch_size for size in sizes]
        self._report_small([path for path, fits in zip(paths, large) if not fits], setting)
        self._paths = [path for path, fits in zip(paths, large) if fits]
        if not self._paths:
            raise UserError(
                f"{setting}: every picture in {str(hr_img_path)!r} is smaller than the patch of "
                f"{patch_size} x {patch_size} px; use larger pictures or smaller patches."
            )
        self._sizes = np.array([size for size, fits in zip(sizes, large) if fits])  # [n, (h, w)]
        if crops_per_image == "auto":
            areas = self._sizes.prod(axis=1) / (_AUTO_CROP_SIDES * patch_size) ** 2
            self._crops = np.maximum(1, np.rint(areas)).astype(np.int64)
        else:
            self._crops = np.full(len(self._paths), crops_per_image)
        self._cache: dict[int, Image.Image] = {}
        self._cache_room = cache_mb * 2**20
        self._cache_lock = threading.Lock()

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

        Background threads prepare them ahead; closing the iterator ends the threads.
        """
        assert 0 <= first_step <= self.steps_per_epoch, (first_step, self.steps_per_epoch)
        plan = self._plan(epoch)
        feed = _Feed(plan, first_step, self.batch_size, self.patch_size, self._picture)
        try:
            for step in range(first_step, self.steps_per_epoch):
                yield feed.take(step)
        finally:
            feed.stop()

    def fixed_patches(self, count: int) -> np.ndarray:
        """uint8 [count, patch_size, patch_size, 3]: centres of the first pictures by name."""
        px = self.patch_size
        patches = np.empty((count, px, px, 3), np.uint8)
        for i in range(count):
            picture = i % self.num_images
            top, left = (self._sizes[picture] - px) // 2
            patches[i] = _cut(self._picture(picture), top, left, px)
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

    def _picture(self, picture: int) -> Image.Image:
        """A decoded picture. The first that fit the budget stay, none makes room for another:
        each is used once an epoch, so the least recently used one is the next to be needed."""
        with self._cache_lock:
            if picture in self._cache:
                return self._cache[picture]
        path = self._paths[picture]
        image = utils.open_image(path)
        height, width = self._sizes[picture]
        if image.size != (width, height):
            raise UserError(f"{str(path)!r} is not {width} x {height} px any more; start again.")
        num_bytes = _DECODED_BYTES * width * height
        with self._cache_lock:
            if picture not in self._cache and num_bytes <= self._cache_room:
                self._cache[picture] = image
                self._cache_room -= num_bytes
        return image

    def _report_small(self, paths: list[Path], setting: str) -> None:
        if paths:
            names = ", ".join(str(path) for path in paths[:5])
            more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
            log.warning(
                "%s: left out %d pictures smaller than the patch of %d px: %s%s",
                *(setting, len(paths), self.patch_size, names, more),
            )


class _Feed:
    """Background threads that decode pictures, cut crops and fill the batches of an epoch."""

    def __init__(
        self,
        plan: _Plan,
        first_step: int,
        batch_size: int,
        patch_size: int,
        open_picture: Callable[[int], Image.Image],
    ) -> None:
        self._plan = plan
        self._shape = (batch_size, patch_size, patch_size, 3)
        self._open_picture = open_picture
        self._visits = deque(_visits(plan, first_step * batch_size))
        self._step = first_step
        self._filling: dict[int, np.ndarray] = {}
        self._missing = np.full(len(plan.visits) // batch_size, batch_size)
        self._error: BaseException | None = None
        self._stopped = False
        self._changed = threading.Condition()
        # Half the cores: the other half prepares and runs the training step.
        self._threads = [
            threading.Thread(target=self._work, name=f"srgan-input-{i}", daemon=True)
            for i in range(min(8, max(1, (os.cpu_count() or 1) // 2)))
        ]
        for thread in self._threads:
            thread.start()

    def take(self, step: int) -> np.ndarray:
        """The batch of a step, once it is full; steps are taken in order."""
        with self._changed:
            self._step = step
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._error or self._missing[step] == 0)
            if self._error:
                raise self._error
            return self._filling.pop(step)

    def stop(self) -> None:
        """Ends the threads and waits for them."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _may_go_on(self) -> bool:
        if self._stopped or not self._visits:
            return True
        return self._visits[0][0] // self._shape[0] <= self._step + _STEPS_AHEAD

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(self._may_go_on)
                    if self._stopped or not self._visits:
                        return
                    positions = self._visits.popleft()
                self._cut_crops(positions)
        except BaseException as error:  # take() raises it in the consumer
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _cut_crops(self, positions: np.ndarray) -> None:
        """Cuts all crops of one visit and puts them into their batches."""
        plan, px = self._plan, self._shape[1]
        image = self._open_picture(plan.pictures[positions[0]])
        steps, slots = np.divmod(positions, self._shape[0])
        with self._changed:
            for step in steps:
                if step not in self._filling:
                    self._filling[step] = np.empty(self._shape, np.uint8)
            batches = [self._filling[step] for step in steps]
        for i, batch, slot in zip(positions, batches, slots):
            patch = np.rot90(_cut(image, plan.tops[i], plan.lefts[i], px), plan.symmetries[i])
            if plan.exposures[i]:
                patch = np.clip(patch + plan.exposures[i], 0, 255)
            batch[slot] = patch[:, ::-1] if plan.symmetries[i] >= 4 else patch
        with self._changed:
            np.subtract.at(self._missing, steps, 1)
            self._changed.notify_all()


def _visits(plan: _Plan, start: int) -> list[np.ndarray]:
    """Positions >= start of the plan, one array for each visit, the first needed first."""
    positions = start + np.argsort(plan.visits[start:], kind="stable")
    ends = np.flatnonzero(np.diff(plan.visits[positions])) + 1
    return sorted((v for v in np.split(positions, ends) if len(v)), key=lambda v: v[0])


def _cut(image: Image.Image, top: int, left: int, px: int) -> np.ndarray:
    """uint8 [px, px, 3]; cropping before the conversion spares copying a large picture."""
    return np.asarray(image.crop((left, top, left + px, top + px)))
