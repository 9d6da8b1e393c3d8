"""Pixel ranges, and several pictures as one."""

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
    """Float in [-1, 1] -> uint8 or uint16, rounded, what lies outside clipped."""
    assert np.issubdtype(image.dtype, np.floating), image.dtype
    half_range = np.float32(np.iinfo(dtype).max / 2)
    return np.rint(np.clip((image + 1) * half_range, 0, 2 * half_range)).astype(dtype)


def resize(pixels: np.ndarray, height: int, width: int, method: Image.Resampling) -> np.ndarray:
    """uint8 or uint16 [h, w] or [h, w, 3] -> the same type, [height, width] or with 3 channels."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize((width, height), method))
    resized = np.empty((height, width, *pixels.shape[2:]), np.uint16)
    for channel in np.ndindex(pixels.shape[2:]):  # Pillow resizes deep samples as floats only
        plane = Image.fromarray(pixels[(..., *channel)].astype(np.float32))
        plane = np.asarray(plane.resize((width, height), method))
        resized[(..., *channel)] = np.rint(plane.clip(0, 65535))
    return resized


def to_rgb8(samples: np.ndarray) -> np.ndarray:
    """uint8 or uint16 [h, w] gray or [h, w, 3] -> uint8 [h, w, 3]."""
    samples = samples if samples.dtype == np.uint8 else to_8bit(samples)
    return samples if samples.ndim == 3 else np.repeat(samples[..., None], 3, axis=2)


def to_8bit(samples: np.ndarray) -> np.ndarray:
    """uint16 -> uint8, the nearest of v / 257, without leaving uint16."""
    quotient = samples // 257
    quotient += samples - quotient * 257 > 128
    return quotient.astype(np.uint8)


def on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """uint8 [h, w] or [h, w, 3] and its [h, w] alpha -> the opaque image on white."""
    cover = (alpha if pixels.ndim == 2 else alpha[..., None]).astype(np.uint16)
    return ((pixels * cover + (255 - cover) * 255 + 127) // 255).astype(np.uint8)


def crop_to_multiple(image: np.ndarray, scale: int) -> np.ndarray:
    """[h, w, ...] -> its upper left part with sides divisible by `scale`."""
    h, w = image.shape[:2]
    return image[: h - h % scale, : w - w % scale]


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """[h, w, ...] -> [scale * h, scale * w, ...]: each pixel a square, to be shown beside larger pictures."""
    return image.repeat(scale, 0).repeat(scale, 1)


def side_by_side(images: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """uint8 [h, w, 3] pictures of any sizes -> one uint8 picture, a caption above each."""
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
