"""Picture files in and out, with their metadata: Pillow's formats here, deeper ones through `deep_files`."""

from __future__ import annotations

import io
import logging
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import imageio.v3 as iio
import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from common.errors import UserError
from common.files import LFS_POINTER, atomic
from common.machine import memory_limit
from images import deep_files, metadata
from images.deep_files import PNG_SIGNATURE, TIFF_SIGNATURES
from images.pixels import to_8bit, to_rgb8, upright

# What Pillow takes for a decompression bomb (89 megapixels) is a usual result here.
Image.MAX_IMAGE_PIXELS = 2**30
# Of a picture to be read: a small file may claim to be vast. Decoding takes up to 32 bytes a pixel.
MOST_READ_PX = min(2**28, memory_limit() // 32)

FORMAT_OF_SUFFIX = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
# 95 leaves no visible artefact; 4:4:4 because upscaled colour edges are what one came for.
# WebP keeps the alpha channel lossless at any quality.
_SAVE_OPTIONS = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95, "alpha_quality": 100},
    "BMP": {},
}
_MAX_SIDE_PX = {"JPEG": 65500, "WEBP": 16383}

_log = logging.getLogger(__name__)


@dataclass
class Picture:
    """A decoded picture, upright; `exif` starts with b'Exif\\0\\0', `icc` is a whole profile."""

    pixels: np.ndarray  # uint8 or uint16, [h, w] gray or [h, w, 3] RGB
    alpha: np.ndarray | None = None  # the same type, [h, w], not premultiplied
    icc: bytes | None = None
    exif: bytes | None = None


def read_picture(path: str | os.PathLike) -> Picture:
    """The first frame of a picture file, turned as EXIF says; 16 bits stay 16 bits."""
    try:
        with _opened(path) as file:
            head = _head(file)
            if head[:4] in TIFF_SIGNATURES and deep_files.is_deep_tiff(file):
                page = deep_files.first_page(file)
                _require_readable_size(page.imagelength, page.imagewidth * max(1, page.samplesperpixel // 4))
                file.seek(0)
                pixels, alpha, icc, orientation = deep_files.read_deep_tiff(file)
                picture = Picture(pixels, alpha, icc, metadata.of_tiff(file))
            else:
                picture, orientation = _read_with_pillow(file, head, path)
    except UserError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    except Exception as error:  # a decoder may raise anything when the file is damaged
        raise UserError(f"cannot read {path}: {_reason(error)}") from error
    if not picture.pixels.size:
        raise UserError(f"cannot read {path}: it has no pixels")
    if picture.exif:
        picture.exif = metadata.set_numbers(picture.exif, {metadata.ORIENTATION: 1}, path)
    picture.pixels = upright(picture.pixels, orientation)
    if picture.alpha is not None:
        picture.alpha = upright(picture.alpha, orientation)
    return picture


def read_rgb(path: str | os.PathLike) -> np.ndarray:
    """A picture file -> uint8 [h, w, 3] RGB: alpha is dropped, 16 bits become the nearest 8."""
    return to_rgb8(read_picture(path).pixels)


def write_rgb(path: str | os.PathLike, image: np.ndarray) -> None:
    """uint8 [h, w, 3] RGB -> a file, its format by its suffix, whole or not at all."""
    assert (image.dtype, image.ndim, image.shape[-1]) == (np.uint8, 3, 3), image.shape
    write_picture(path, Picture(image))


def size_of(path: str | os.PathLike) -> tuple[int, int]:
    """(h, w) of the upright picture, from the file's header."""
    try:
        with _opened(path) as file:
            if _head(file)[:4] in TIFF_SIGNATURES:
                page = deep_files.first_page(file)
                height, width = page.imagelength, page.imagewidth
                orientation = page.tags.valueof(metadata.ORIENTATION, 1)
            else:
                image = Image.open(file)
                width, height = image.size
                # Pillow decodes a whole PNG in search of EXIF.
                ask_exif = image.format != "PNG" or "exif" in image.info
                orientation = image.getexif().get(metadata.ORIENTATION, 1) if ask_exif else 1
        _require_readable_size(height, width)
    except UserError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    except Exception as error:
        raise UserError(f"cannot read {path}: {_reason(error)}") from error
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def write_picture(path: str | os.PathLike, picture: Picture) -> None:
    """Writes the format of the suffix; a file of that name is always complete.

    What a format cannot hold is reduced and logged: 16 bits to 8 (JPEG, WebP, BMP), alpha onto
    white (JPEG, BMP); gray becomes colour in WebP; BMP holds no ICC profile and no EXIF.
    """
    path = Path(path)
    check_fits(path, *picture.pixels.shape[:2])
    kind = FORMAT_OF_SUFFIX[path.suffix.lower()]
    picture = _adapt(picture, kind, path)
    samples = _interleaved(picture)
    try:
        with atomic(path) as part, open(part, "wb") as file:
            if kind == "TIFF":
                deep_files.write_tiff(file, samples, picture.icc, picture.exif)
            elif samples.dtype == np.uint16:
                deep_files.write_png16(file, samples, picture.icc, picture.exif)
            else:
                kept = {"icc_profile": picture.icc, "exif": picture.exif}
                kept = {key: value for key, value in kept.items() if value}
                options = {**_SAVE_OPTIONS[kind], **kept, "mode": _mode(picture)}
                iio.imwrite(file, samples, plugin="pillow", extension=path.suffix.lower(), **options)
    except MemoryError as error:
        raise UserError(f"cannot write {path}: {_reason(error)}") from error


def check_fits(path: str | os.PathLike, height: int, width: int, bytes_per_px: int = 1) -> None:
    """UserError if the format of this suffix is unknown or cannot hold a picture of this size."""
    kind = FORMAT_OF_SUFFIX.get(Path(path).suffix.lower())
    if kind is None:
        raise UserError(f"cannot write {path}: use one of {', '.join(FORMAT_OF_SUFFIX)}")
    most = _MAX_SIDE_PX.get(kind)
    if most and max(height, width) > most:
        raise UserError(
            f"cannot write {path}: {kind} holds at most {most} pixels a side, "
            f"this picture has {width} x {height}; choose png or tiff"
        )
    if kind == "TIFF" and height * width * bytes_per_px >= 2**32 - 2**24:
        raise UserError(f"cannot write {path}: TIFF holds at most 4 GB; choose png")
    if kind == "BMP" and height * width * 3 >= 2**32 - 2048:
        raise UserError(f"cannot write {path}: BMP holds at most 4 GB; choose png or tiff")


def _opened(path: str | os.PathLike) -> BinaryIO:
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise UserError("it is not a file")
    return open(path, "rb")


def _require_readable_size(height: int, width: int) -> None:
    if height * width > MOST_READ_PX:
        raise UserError(
            f"it has {height * width / 1e6:.0f} megapixels, and at most {MOST_READ_PX / 1e6:.0f} "
            "are read on this machine"
        )


def _head(file: BinaryIO) -> bytes:
    head = file.read(32)
    file.seek(0)
    if head.startswith(LFS_POINTER):
        raise UserError("it is a Git LFS pointer; fetch the picture with 'git lfs pull'")
    return head


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is not a picture, or of a kind that is not supported"
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"it is damaged ({str(error).splitlines()[0] if str(error) else type(error).__name__})"


def _read_with_pillow(file: BinaryIO, head: bytes, path: str | os.PathLike) -> tuple[Picture, int]:
    image = Image.open(file)
    _require_readable_size(*image.size)
    # Pillow counts the thumbnails inside a camera's JPEG ('MPO') as frames.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        _log.warning("%s holds several frames: only the first is used", path)
    exif = metadata.of_tiff(file) if image.format == "TIFF" else None
    image.load()
    icc = image.info.get("icc_profile") or None
    orientation = 1
    with suppress(Exception):  # EXIF is full of surprises, and none is worth the picture
        orientation = image.getexif().get(metadata.ORIENTATION, 1)  # Pillow has turned a TIFF already
        if image.format != "TIFF" and image.getexif():
            exif = image.info.get("exif") or image.getexif().tobytes()
    while exif and exif.startswith(metadata.EXIF_PREFIX):  # none in WebP, two from some writers of PNG
        exif = exif[len(metadata.EXIF_PREFIX) :]
    exif = metadata.EXIF_PREFIX + exif if exif else None

    if head.startswith(PNG_SIGNATURE) and head[24] == 16:
        file.seek(0)
        pixels, alpha = deep_files.decode_png16(file.read(), image.info.get("transparency"))
    elif image.mode.startswith("I;16"):
        pixels, alpha = np.asarray(image).astype(np.uint16), None
    elif image.mode == "CMYK":
        pixels, alpha, icc = _cmyk_to_rgb(image, icc), None, None
    else:
        pixels, alpha = _decode_8bit(image)
    return Picture(pixels, alpha, icc, exif), orientation


def _decode_8bit(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    if image.mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"):
        raise UserError(f"its kind {image.mode!r} is not supported; save it with 8 or 16 bits")
    is_gray = image.mode in ("1", "L", "LA", "La")
    mode = ("L" if is_gray else "RGB") + ("A" if image.has_transparency_data else "")
    samples = np.array(image.convert(mode))
    if samples.ndim == 2:
        return samples, None
    pixels = samples[..., 0] if is_gray else samples[..., :3]
    if image.mode in ("P", "PA") and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]  # a palette of grays
    return pixels, samples[..., -1] if image.has_transparency_data else None


def _cmyk_to_rgb(image: Image.Image, icc: bytes | None) -> np.ndarray:
    """To sRGB through the file's own profile if it has a valid one, else by the plain formula."""
    if icc:
        with suppress(ImageCms.PyCMSError, OSError):
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            srgb = ImageCms.createProfile("sRGB")
            return np.array(ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB"))
    return np.array(image.convert("RGB"))


def _adapt(picture: Picture, kind: str, path: Path) -> Picture:
    """The picture as this format can hold it."""
    pixels, alpha, icc, exif = picture.pixels, picture.alpha, picture.icc, picture.exif
    if pixels.dtype == np.uint16 and kind not in ("PNG", "TIFF"):
        _log.warning("%s: %s has no 16 bits, reduced to 8", path, kind)
        pixels, alpha = to_8bit(pixels), None if alpha is None else to_8bit(alpha)
    if alpha is not None and kind in ("JPEG", "BMP"):
        _log.warning("%s: %s has no transparency, laid on white", path, kind)
        cover = alpha if pixels.ndim == 2 else alpha[..., None]
        mixed = pixels.astype(np.uint16) * cover + (255 - cover).astype(np.uint16) * 255
        pixels, alpha = ((mixed + 127) // 255).astype(np.uint8), None
    if kind == "WEBP" and pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
        icc = None if icc and icc[16:20] == b"GRAY" else icc
    if exif:
        height, width = pixels.shape[:2]
        exif = metadata.set_numbers(exif, {metadata.WIDTH: width, metadata.HEIGHT: height}, path)
    if exif and kind == "JPEG" and len(exif) > 65533:
        _log.warning("%s: EXIF is too long for JPEG and left out", path)
        exif = None
    return replace(picture, pixels=pixels, alpha=alpha, icc=icc, exif=exif)


def _mode(picture: Picture) -> str:
    """Pillow's name of what is interleaved."""
    return ("L" if picture.pixels.ndim == 2 else "RGB") + ("" if picture.alpha is None else "A")


def _interleaved(picture: Picture) -> np.ndarray:
    """[h, w] or [h, w, channels] with alpha last."""
    if picture.alpha is None:
        return picture.pixels
    return np.dstack([picture.pixels, picture.alpha])
