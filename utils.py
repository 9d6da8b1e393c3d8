"""The study note's image helpers. Training itself reads and crops in `training/patches.py`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from common.errors import UserError
from images import bicubic
from images.files import read_rgb
from images.pixels import to_float, to_integers

HR_PX, LR_PX = 384, 96  # sides of the note's crops


def get_imgs_fn(file_name: str, path: str | os.PathLike) -> np.ndarray:
    """The file `file_name` in the folder `path` -> uint8 [h, w, 3] RGB."""
    return read_rgb(Path(path) / file_name)


def crop_sub_imgs_fn(x: np.ndarray, is_random: bool = True) -> np.ndarray:
    """uint8 [h, w, 3] -> a random or the central crop, float32 [384, 384, 3] in [-1, 1]."""
    spare_h, spare_w = x.shape[0] - HR_PX, x.shape[1] - HR_PX
    if min(spare_h, spare_w) < 0:
        raise UserError(
            f"An image of {x.shape[1]} x {x.shape[0]} px is too small for a crop; "
            f"use images of {HR_PX} x {HR_PX} px or more."
        )
    if is_random:  # NumPy's global generator, so that np.random.seed repeats the crops
        top, left = np.random.randint(spare_h + 1), np.random.randint(spare_w + 1)
    else:
        top, left = spare_h // 2, spare_w // 2
    return to_float(x[top : top + HR_PX, left : left + HR_PX])


def downsample_fn(x: np.ndarray) -> np.ndarray:
    """HR crop, float [384, 384, 3] in [-1, 1] -> LR, float32 [96, 96, 3] in [-1, 1]."""
    assert x.shape == (HR_PX, HR_PX, 3), x.shape
    return to_float(bicubic.downsample(to_integers(x), HR_PX // LR_PX))
