"""The sample photographs for training and validation, which ship inside installed packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from common.errors import UserError
from images import bicubic, files, metrics
from images.listing import list_images
from images.pixels import crop_to_multiple

SAMPLE = "sample"
# All in packages that TensorLayer or this program requires anyway
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
    """Returns {name: uint8 [h, w, 3] RGB} of the sample photographs for training."""
    return {name: files.read_rgb(packaged(*file)) for name, file in SAMPLE_FILES.items()}


def validation_photo() -> np.ndarray:
    """Returns the sample photograph for validation, uint8 [512, 512, 3] RGB."""
    return files.read_rgb(packaged(*VALIDATION_FILE))


def validation_pair(
    scale: int, hr_img_path: str, lr_img_path: str = "", imid: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the validation image as uint8 (HR, LR); HR is cropped to multiples of the scale.

    A path is an image, a folder whose image number `imid` is used, or, for HR only, 'sample'. Without
    `lr_img_path`, LR is made from HR by MATLAB's bicubic.
    """
    hr = (
        validation_photo()
        if hr_img_path == SAMPLE
        else _read_numbered("VALID.hr_img_path", hr_img_path, imid)
    )
    hr = crop_to_multiple(hr, scale)
    if min(hr.shape[:2]) < (side := metrics.least_side(scale)):
        raise UserError(f"VALID.hr_img_path: the image is smaller than {side} x {side} px")
    if not lr_img_path:
        return hr, bicubic.downsample(hr, scale)
    lr = _read_numbered("VALID.lr_img_path", lr_img_path, imid)
    if (lr.shape[0] * scale, lr.shape[1] * scale) != hr.shape[:2]:
        raise UserError(f"VALID.lr_img_path: its sides are not 1/{scale} of VALID.hr_img_path's")
    return hr, lr


def _read_numbered(setting: str, path: str, imid: int) -> np.ndarray:
    if Path(path).is_file():
        return files.read_rgb(path)
    images = list_images(path, setting)
    if imid >= len(images):
        raise UserError(f"VALID.imid is {imid}, but {setting} has {len(images)} images, counted from 0")
    return files.read_rgb(images[imid])


def packaged(package: str, file: str) -> Path:
    """Returns the path of a file inside an installed package, without importing the package."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.submodule_search_locations[0], file) if spec else None
    if path is None or not path.is_file():
        raise UserError(
            f"the sample photograph {package}/{file} is not installed; run "
            f"`pip install --force-reinstall {_DISTRIBUTIONS.get(package, package)}` "
            "or name a folder of images"
        )
    return path
