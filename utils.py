"""Image files, pixel ranges, contact sheets, and the study note's image helpers."""

from __future__ import annotations

import contextlib
import math
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

import bicubic

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
NOTE_HR_PX = 384  # the study note's HR crop

_SAVE_OPTIONS = {
    ".jpg": {"quality": 95, "subsampling": 0},
    ".jpeg": {"quality": 95, "subsampling": 0},
    ".webp": {"lossless": True},
}
# What Pillow's readers raise on damaged, foreign or enormous files.
_READ_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_LFS_POINTER = b"version https://git-lfs"
_EXIF_ORIENTATION = 0x0112
_TIFF_SIZE = (256, 257)  # the tags of width and height
_CAPTION_PX = 16
_MARGIN_PX = 4


class UserError(Exception):
    """A user's mistake: one sentence that says what to do."""


def list_images(folder: str | os.PathLike, setting: str) -> list[Path]:
    """Pictures in a folder and all folders below it, sorted; `setting` names it in errors."""
    folder = Path(folder)
    if folder.is_file():
        raise UserError(f"{setting}: {str(folder)!r} is a file; name the folder it lies in.")
    if not folder.exists():
        raise UserError(f"{setting}: there is no folder {str(folder)!r}; name one with pictures.")

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{setting}: cannot read the folder {error.filename!r} ({error.strerror}); "
            "change its permissions or name another folder."
        )

    # Without onerror os.walk passes over folders it may not read.
    images = [
        Path(root, name)
        for root, _, names in os.walk(folder, onerror=refuse, followlinks=True)
        for name in names
        if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
    ]
    if not images:
        kinds = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
        raise UserError(f"{setting}: no pictures in {str(folder)!r}; put some there ({kinds}).")
    return sorted(images)


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """(height, width) of a picture file, upright as its EXIF says, from the header alone."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            if image.format == "TIFF":  # newer Pillows have already turned its size
                width, height = (image.tag_v2[tag] for tag in _TIFF_SIZE)
            # Asked for EXIF it has not met in the header, Pillow decodes a whole PNG.
            has_exif = image.format != "PNG" or "exif" in image.info
            sideways = has_exif and image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    except _READ_ERRORS as error:
        raise UserError(_explain(path, error)) from error
    return (width, height) if sideways else (height, width)


def open_image(path: str | os.PathLike) -> Image.Image:
    """A picture file as a Pillow image, decoded, mode RGB, upright as its EXIF says."""
    try:
        with Image.open(path) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    except _READ_ERRORS as error:
        raise UserError(_explain(path, error)) from error


def read_image(path: str | os.PathLike) -> np.ndarray:
    """A picture file -> uint8 [h, w, 3] RGB; alpha is dropped, of 16 bits the upper 8 are kept."""
    return np.array(open_image(path))


def write_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """uint8 [h, w, 3] RGB -> a file, its format by its suffix, whole or not at all."""
    assert (image.dtype, image.ndim, image.shape[-1]) == (np.uint8, 3, 3), image.shape
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise UserError(f"Cannot write {str(path)!r}: use one of {', '.join(IMAGE_SUFFIXES)}.")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(temporary, **_SAVE_OPTIONS.get(suffix, {}))
        os.replace(temporary, path)
    except OSError as error:
        _remove(temporary)
        raise UserError(
            f"Cannot write {str(path)!r} ({error.strerror or error}); "
            "free some space or choose a folder you may write to."
        ) from error
    except BaseException:
        _remove(temporary)
        raise


def to_float(image: np.ndarray) -> np.ndarray:
    """uint8 0-255 -> float32 in [-1, 1]."""
    assert image.dtype == np.uint8, image.dtype
    return image.astype(np.float32) / 127.5 - 1


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Float in [-1, 1] -> uint8 0-255, rounded, what lies outside clipped."""
    assert np.issubdtype(image.dtype, np.floating), image.dtype
    return np.rint((image + 1) * 127.5).clip(0, 255).astype(np.uint8)


def crop_to_multiple(image: np.ndarray, scale: int) -> np.ndarray:
    """[h, w, ...] -> its upper left part with sides divisible by `scale`."""
    h, w = image.shape[:2]
    return image[: h - h % scale, : w - w % scale]


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


def image_grid(images: np.ndarray, columns: int) -> np.ndarray:
    """uint8 [n, h, w, 3] -> uint8 [rows * h, columns * w, 3] in reading order, the rest black."""
    assert (images.dtype, images.ndim) == (np.uint8, 4), (images.dtype, images.shape)
    n, h, w, c = images.shape
    rows = math.ceil(n / columns)
    cells = np.zeros((rows * columns, h, w, c), np.uint8)
    cells[:n] = images
    cells = cells.reshape(rows, columns, h, w, c).transpose(0, 2, 1, 3, 4)
    return cells.reshape(rows * h, columns * w, c)


def get_imgs_fn(file_name: str, path: str | os.PathLike) -> np.ndarray:
    """The file `file_name` in the folder `path` -> uint8 [h, w, 3] RGB."""
    return read_image(Path(path) / file_name)


def crop_sub_imgs_fn(x: np.ndarray, is_random: bool = True) -> np.ndarray:
    """uint8 [h, w, 3] -> a random or the central crop, float32 [384, 384, 3] in [-1, 1]."""
    spare_h, spare_w = x.shape[0] - NOTE_HR_PX, x.shape[1] - NOTE_HR_PX
    if min(spare_h, spare_w) < 0:
        raise UserError(
            f"A picture of {x.shape[1]} x {x.shape[0]} px is too small for a crop; "
            f"use pictures of {NOTE_HR_PX} x {NOTE_HR_PX} px or more."
        )
    if is_random:  # NumPy's global generator, so that np.random.seed repeats the crops
        top, left = np.random.randint(spare_h + 1), np.random.randint(spare_w + 1)
    else:
        top, left = spare_h // 2, spare_w // 2
    return to_float(x[top : top + NOTE_HR_PX, left : left + NOTE_HR_PX])


def downsample_fn(x: np.ndarray) -> np.ndarray:
    """HR crop, float [384, 384, 3] in [-1, 1] -> LR, float32 [96, 96, 3] in [-1, 1]."""
    assert x.shape == (NOTE_HR_PX, NOTE_HR_PX, 3), x.shape
    return to_float(bicubic.downsample(to_uint8(x)))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    # Pillow clips 16-bit gray to 255, but keeps the upper byte of 16-bit colour: do so for both.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("32 bits a pixel; save it with 8 or 16")
    if image.mode in ("RGBa", "La", "P", "PA"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    return image.convert("RGB")


def _explain(path: str | os.PathLike, error: Exception) -> str:
    """Why a picture could not be read, and what to do, in one sentence."""
    name = repr(os.fspath(path))
    if isinstance(error, FileNotFoundError):
        return f"There is no file {name}; check the name."
    if isinstance(error, (PermissionError, IsADirectoryError)):
        return f"Cannot open {name} ({error.strerror}); check its permissions and the name."
    if isinstance(error, Image.DecompressionBombError):
        return f"{name} has more pixels than Pillow opens; cut it into smaller pictures."
    if isinstance(error, UnidentifiedImageError):
        with open(path, "rb") as file:
            start = file.read(len(_LFS_POINTER))
        if start == _LFS_POINTER:
            return f"{name} is a Git LFS pointer, not the picture; fetch it with `git lfs pull`."
        if not start:
            return f"{name} is an empty file; replace or remove it."
        return f"{name} is not a picture this program can read; replace or remove it."
    return f"{name} cannot be read ({error}); replace or remove it."


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # the error that led here says more
        path.unlink(missing_ok=True)
