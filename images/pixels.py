"""Converts pixel ranges and sizes, and puts images side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_CAPTION_PX = 16
_MARGIN_PX = 4


def to_float(image: np.ndarray) -> np.ndarray:
    """uint8 or uint16 -> float32 in [-1, 1]."""
    half_range = np.float32(np.iinfo(image.dtype).max / 2)
    return image.astype(np.float32) / half_range - 1


def to_integers(image: np.ndarray, dtype: np.dtype = np.uint8) -> np.ndarray:
    """Float in [-1, 1] -> uint8 or uint16, rounded; values outside are clipped."""
    assert np.issubdtype(image.dtype, np.floating), image.dtype
    half_range = np.float32(np.iinfo(dtype).max / 2)
    return np.rint(np.clip((image + 1) * half_range, 0, 2 * half_range)).astype(dtype)


def resize(pixels: np.ndarray, height: int, width: int, method: Image.Resampling) -> np.ndarray:
    """uint8 or uint16 [h, w] or [h, w, 3] -> [height, width] or [height, width, 3], same type."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize((width, height), method))
    if pixels.ndim == 3:  # Pillow resizes 16-bit samples only as single float planes
        return np.dstack([resize(pixels[..., c], height, width, method) for c in range(pixels.shape[2])])
    plane = Image.fromarray(pixels.astype(np.float32)).resize((width, height), method)
    return np.rint(np.clip(plane, 0, 65535)).astype(np.uint16)


def to_rgb8(samples: np.ndarray) -> np.ndarray:
    """uint8 or uint16 [h, w] gray or [h, w, 3] -> uint8 [h, w, 3]; 16 bits are rounded to 8."""
    if samples.dtype == np.uint16:
        samples = np.rint(samples / np.float32(257)).astype(np.uint8)
    return samples if samples.ndim == 3 else np.repeat(samples[..., None], 3, axis=2)


def crop_to_multiple(image: np.ndarray, scale: int) -> np.ndarray:
    """[h, w, ...] -> its largest top left crop with sides divisible by `scale`."""
    h, w = image.shape[:2]
    return image[: h - h % scale, : w - w % scale]


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """[h, w, ...] -> [scale * h, scale * w, ...] by repeating pixels."""
    return image.repeat(scale, 0).repeat(scale, 1)


def side_by_side(images: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """uint8 [h, w, 3] images of any sizes -> one uint8 image with a caption above each."""
    assert len(images) == len(captions) > 0, (len(images), len(captions))
    font = ImageFont.load_default(size=_CAPTION_PX)
    texts_px = [math.ceil(font.getlength(caption)) for caption in captions]
    widths = [max(image.shape[1], text_px) + _MARGIN_PX for image, text_px in zip(images, texts_px)]
    strip = _CAPTION_PX + 2 * _MARGIN_PX
    height = strip + max(image.shape[0] for image in images)
    sheet = Image.new("RGB", (sum(widths) - _MARGIN_PX, height), "white")
    draw = ImageDraw.Draw(sheet)
    left = 0
    for image, caption, width in zip(images, captions, widths):
        draw.text((left, _MARGIN_PX), caption, fill="black", font=font)
        sheet.paste(Image.fromarray(image), (left, strip))
        left += width
    return np.array(sheet)
