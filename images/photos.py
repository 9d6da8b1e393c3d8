"""Photographs that ship inside installed packages: the embedded training set and validation picture."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from common.errors import UserError
from images import bicubic, files, metrics
from images.listing import list_pictures
from images.pixels import crop_to_multiple

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


def sample_photos() -> dict[str, np.ndarray]:
    """The embedded training photographs by name, uint8 [h, w, 3] RGB."""
    return {name: files.read_rgb(packaged(*SAMPLE_FILES[name])) for name in SAMPLE_FILES}


def validation_photo() -> np.ndarray:
    """An embedded photograph that is not among the training ones, uint8 [512, 512, 3] RGB."""
    return files.read_rgb(packaged(*VALIDATION_FILE))


def validation_pair(
    scale: int, hr_img_path: str, lr_img_path: str = "", imid: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (HR, LR) of the validation image, HR `scale` times as large.

    A path is 'sample' (HR only), a picture, or a folder, whose picture number `imid` is taken. Without
    `lr_img_path` LR is made from HR, whose sides are cut to multiples of the scale, by MATLAB's bicubic.
    """
    if hr_img_path == SAMPLE:
        hr = validation_photo()
    else:
        hr = files.read_rgb(_numbered(hr_img_path, imid, "VALID.hr_img_path"))
    hr = crop_to_multiple(hr, scale)
    if min(hr.shape[:2]) < (side := metrics.least_side(scale)):
        raise UserError(f"VALID.hr_img_path: the picture is smaller than {side} x {side} px")
    if not lr_img_path:
        return hr, bicubic.downsample(hr, scale)
    path = _numbered(lr_img_path, imid, "VALID.lr_img_path")
    lr = files.read_rgb(path)
    if (lr.shape[0] * scale, lr.shape[1] * scale) != hr.shape[:2]:
        raise UserError(
            f"VALID.lr_img_path: {path} does not have 1/{scale} of the sides of VALID.hr_img_path's image"
        )
    return hr, lr


def _numbered(path: str, imid: int, setting: str) -> Path:
    if Path(path).is_file():
        return Path(path)
    pictures = list_pictures(path, setting)
    if imid >= len(pictures):
        raise UserError(f"VALID.imid is {imid}, but {setting} has {len(pictures)} pictures, from 0 on")
    return pictures[imid]


def packaged(package: str, file: str) -> Path:
    """Path of a file inside an installed package, which is not imported for it."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.submodule_search_locations[0], file) if spec else None
    if path is None or not path.is_file():
        raise UserError(
            f"The sample photo {package}/{file} is not installed; run "
            f"`pip install --force-reinstall {_DISTRIBUTIONS.get(package, package)}` "
            "or name a folder of pictures."
        )
    return path
