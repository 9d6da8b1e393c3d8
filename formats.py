"""Picture files in and out: PNG, JPEG, WebP, BMP and TIFF at 8 and 16 bits, with their metadata.

Pillow reads and writes what it can hold. It has no 16-bit colour, so OpenCV decodes 16-bit PNG,
tifffile deep TIFF, and both are written here: their writers cannot carry EXIF and gray with alpha.
"""

from __future__ import annotations

import io
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from utils import UserError

# What Pillow takes for a decompression bomb (89 megapixels) is a usual result here.
Image.MAX_IMAGE_PIXELS = 2**30
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # its failures become a UserError

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
_BLOCK_BYTES = 2**20

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_LFS_SIGNATURE = b"version https://git-lfs"
_EXIF_PREFIX = b"Exif\0\0"

_ORIENTATION, _EXIF_IFD, _GPS_IFD, _EXIF_WIDTH, _EXIF_HEIGHT = 274, 34665, 34853, 40962, 40963
_STRIP_OFFSETS = 273
# Of a TIFF's first directory, what describes the photograph and not the file's layout:
# description, make, model, resolution and its unit, software, date, artist, copyright.
_DESCRIPTIVE_TAGS = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432)

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
        with open(path, "rb") as file:
            head = _head(file)
            if head[:4] in _TIFF_SIGNATURES and _is_deep_tiff(file):
                picture, orientation = _read_deep_tiff(file)
            else:
                picture, orientation = _read_with_pillow(file, head, path)
    except UserError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    except Exception as error:  # a decoder may raise anything when the file is damaged
        raise UserError(f"cannot read {path}: {_reason(error)}") from error
    if not picture.pixels.size:
        raise UserError(f"cannot read {path}: it has no pixels")
    if picture.exif:
        picture.exif = _set_exif(picture.exif, {_ORIENTATION: 1}, path)
    picture.pixels = _upright(picture.pixels, orientation)
    if picture.alpha is not None:
        picture.alpha = _upright(picture.alpha, orientation)
    return picture


def size_of(path: str | os.PathLike) -> tuple[int, int]:
    """(h, w) of the upright picture, from the file's header."""
    try:
        with open(path, "rb") as file:
            if _head(file)[:4] in _TIFF_SIGNATURES:
                page = _first_page(file)
                height, width = page.imagelength, page.imagewidth
                orientation = page.tags.valueof(_ORIENTATION, 1)
            else:
                image = Image.open(file)
                width, height = image.size
                # Pillow decodes a whole PNG in search of EXIF.
                ask_exif = image.format != "PNG" or "exif" in image.info
                orientation = image.getexif().get(_ORIENTATION, 1) if ask_exif else 1
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
    # One fixed name: what a killed run leaves behind is overwritten by the next.
    part = path.with_name(f".{path.name}.part")
    try:
        picture = _adapt(picture, kind, path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            if kind == "TIFF":
                _write_tiff(file, picture)
            elif kind == "PNG" and picture.pixels.dtype == np.uint16:
                _write_png16(file, picture)
            else:
                metadata = {"icc_profile": picture.icc, "exif": picture.exif}
                metadata = {key: value for key, value in metadata.items() if value}
                image = Image.fromarray(_interleaved(picture))
                image.save(file, kind, **_SAVE_OPTIONS[kind], **metadata)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, (OSError, MemoryError)):
            raise UserError(f"cannot write {path}: {_reason(error)}") from error
        raise


def check_fits(path: str | os.PathLike, height: int, width: int) -> None:
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
    if kind == "BMP" and height * width * 3 >= 2**32 - 2048:
        raise UserError(f"cannot write {path}: BMP holds at most 4 GB; choose png or tiff")


def _head(file: BinaryIO) -> bytes:
    head = file.read(32)
    file.seek(0)
    if head.startswith(_LFS_SIGNATURE):
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
    # Pillow counts the thumbnails inside a camera's JPEG ('MPO') as frames.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        _log.warning("%s holds several frames: only the first is used", path)
    exif = _tiff_exif(file) if image.format == "TIFF" else None
    image.load()
    icc = image.info.get("icc_profile") or None
    orientation = 1
    with suppress(Exception):  # EXIF is full of surprises, and none is worth the picture
        orientation = image.getexif().get(_ORIENTATION, 1)  # Pillow has turned a TIFF already
        if image.format != "TIFF" and image.getexif():
            exif = image.info.get("exif") or image.getexif().tobytes()
    while exif and exif.startswith(_EXIF_PREFIX):  # none in WebP, two from some writers of PNG
        exif = exif[len(_EXIF_PREFIX) :]
    exif = _EXIF_PREFIX + exif if exif else None

    if head.startswith(_PNG_SIGNATURE) and head[24] == 16:
        file.seek(0)
        pixels, alpha = _decode_png16(file.read(), image)
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


def _decode_png16(data: bytes, image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16:
        raise ValueError("16-bit PNG")
    if samples.ndim == 2:
        key = image.info.get("transparency")
        opaque = None if key is None else np.where(samples == key, 0, 65535).astype(np.uint16)
        return samples, opaque
    is_gray = not data[25] & 2  # bit 1 of the colour type; OpenCV makes colour of gray with alpha
    pixels = samples[..., 0] if is_gray else samples[..., 2::-1]
    return pixels, samples[..., 3] if samples.shape[2] == 4 else None


def _cmyk_to_rgb(image: Image.Image, icc: bytes | None) -> np.ndarray:
    """To sRGB through the file's own profile if it has a valid one, else by the plain formula."""
    if icc:
        with suppress(ImageCms.PyCMSError, OSError):
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            srgb = ImageCms.createProfile("sRGB")
            return np.array(ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB"))
    return np.array(image.convert("RGB"))


def _first_page(file: BinaryIO) -> tifffile.TiffPage:
    return tifffile.TiffFile(file).pages[0]


def _is_deep_tiff(file: BinaryIO) -> bool:
    page = _first_page(file)
    file.seek(0)
    # Pillow converts 16-bit CMYK and the like to 8 bits, which will do for those.
    plain = page.photometric in (0, 1, 2)  # white is zero, black is zero, RGB
    return plain and (page.bitspersample > 8 or page.sampleformat != 1)


def _read_deep_tiff(file: BinaryIO) -> tuple[Picture, int]:
    tiff = tifffile.TiffFile(file)
    page = tiff.pages[0]
    if len(tiff.pages) > 1:
        _log.warning("%s holds several pages: only the first is used", file.name)
    is_uint16 = page.sampleformat == 1 and page.bitspersample == 16
    if not is_uint16 and page.sampleformat != 3:
        signed = "signed " if page.sampleformat == 2 else ""
        raise UserError(
            f"its {signed}{page.bitspersample}-bit values are not supported; save it with 16 bits"
        )
    samples = _deep_samples(file, page)
    if samples.dtype != np.uint16:
        if not (samples.min() >= 0 and samples.max() <= 1):  # false for NaN as well
            raise UserError("its float values are not all in 0 to 1; save it with 16 bits")
        samples = np.rint(samples * 65535.0).astype(np.uint16)
    colours = 3 if page.photometric == 2 else 1
    pixels, alpha = samples[..., :colours], None
    if page.photometric == 0:
        pixels = 65535 - pixels
    if page.extrasamples and page.extrasamples[0] in (1, 2):
        alpha = samples[..., colours]
        if page.extrasamples[0] == 1:  # colour multiplied by alpha
            scaled = pixels / np.maximum(alpha, 1)[..., None] * 65535.0
            pixels = np.rint(np.minimum(scaled, 65535)).astype(np.uint16)
    pixels = pixels[..., 0] if colours == 1 else pixels
    icc = page.tags.valueof(34675) or None
    orientation = page.tags.valueof(_ORIENTATION, 1)
    return Picture(pixels, alpha, icc, _tiff_exif(file)), orientation


def _deep_samples(file: BinaryIO, page: tifffile.TiffPage) -> np.ndarray:
    """[h, w, samples] as stored."""
    try:
        samples = page.asarray()
        if page.planarconfig == 2 and page.samplesperpixel > 1:
            samples = np.moveaxis(samples, 0, -1)
    except ValueError as error:
        # LZW and others need a package that tifffile does not bring; OpenCV knows the usual ones.
        if "imagecodecs" not in str(error):
            raise
        file.seek(0)
        data = np.frombuffer(file.read(), np.uint8)
        samples = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if page.planarconfig == 1 else None
        if samples is None or samples.dtype != page.dtype or samples.size != page.size:
            raise UserError("its compression is not supported; save it with Deflate") from error
        if samples.ndim == 3:
            samples = samples[..., [2, 1, 0, 3][: samples.shape[2]]]
    return samples.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)


def _descriptive(exif: Image.Exif) -> dict[int, object]:
    tags = {tag: exif[tag] for tag in _DESCRIPTIVE_TAGS if tag in exif}
    nested = {tag: dict(exif.get_ifd(tag)) for tag in (_EXIF_IFD, _GPS_IFD)}
    return tags | {tag: values for tag, values in nested.items() if values}


def _tiff_exif(file: BinaryIO) -> bytes | None:
    try:
        file.seek(0)
        source, kept = Image.Exif(), Image.Exif()
        source.load_from_fp(file)
        kept.update(_descriptive(source))
        return kept.tobytes() if kept else None
    except Exception:
        _log.warning("the EXIF of %s is damaged and left out", file.name)
        return None
    finally:
        file.seek(0)


def _set_exif(exif: bytes, values: dict[int, int], path: str | os.PathLike) -> bytes | None:
    """Changes numbers in place, so that makers' notes keep their offsets; drops the thumbnail."""
    data = memoryview(bytearray(exif))[len(_EXIF_PREFIX) :]
    order = "<" if data[:2] == b"II" else ">"

    def set_in(ifd: int) -> int:
        (count,) = struct.unpack_from(order + "H", data, ifd)
        end = ifd + 2 + 12 * count
        for at in range(ifd + 2, end, 12):
            tag, _, number = struct.unpack_from(order + "HHL", data, at)
            if tag == _ORIENTATION and tag in values:
                struct.pack_into(order + "HHLHH", data, at, tag, 3, 1, values[tag], 0)
            elif tag in values and number == 1:
                struct.pack_into(order + "HHLL", data, at, tag, 4, 1, values[tag])
            elif tag == _EXIF_IFD and ifd == first:
                set_in(struct.unpack_from(order + "L", data, at + 8)[0])
        return end

    try:
        (first,) = struct.unpack_from(order + "L", data, 4)
        end = set_in(first)
        if end + 4 <= len(data):
            struct.pack_into(order + "L", data, end, 0)  # the next directory is the thumbnail's
    except struct.error:
        _log.warning("the EXIF of %s is damaged and left out", path)
        return None
    return _EXIF_PREFIX + bytes(data)


def _upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return np.ascontiguousarray(samples)


def _to_8bit(samples: np.ndarray) -> np.ndarray:
    """Nearest of v / 257, without leaving uint16."""
    quotient = samples // 257
    quotient += samples - quotient * 257 > 128
    return quotient.astype(np.uint8)


def _adapt(picture: Picture, kind: str, path: Path) -> Picture:
    """The picture as this format can hold it."""
    pixels, alpha, icc, exif = picture.pixels, picture.alpha, picture.icc, picture.exif
    if pixels.dtype == np.uint16 and kind not in ("PNG", "TIFF"):
        _log.warning("%s: %s has no 16 bits, reduced to 8", path, kind)
        pixels, alpha = _to_8bit(pixels), None if alpha is None else _to_8bit(alpha)
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
        exif = _set_exif(exif, {_EXIF_WIDTH: width, _EXIF_HEIGHT: height}, path)
    if exif and kind == "JPEG" and len(exif) > 65533:
        _log.warning("%s: EXIF is too long for JPEG and left out", path)
        exif = None
    return replace(picture, pixels=pixels, alpha=alpha, icc=icc, exif=exif)


def _interleaved(picture: Picture) -> np.ndarray:
    """[h, w] or [h, w, channels] with alpha last."""
    if picture.alpha is None:
        return picture.pixels
    return np.dstack([picture.pixels, picture.alpha])


def _row_blocks(samples: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(1, _BLOCK_BYTES // samples[0].nbytes)
    for top in range(0, len(samples), rows):
        yield samples[top : top + rows]


def _write_png16(file: BinaryIO, picture: Picture) -> None:
    samples = _interleaved(picture)
    height, width = samples.shape[:2]
    colour_type = (2 if picture.pixels.ndim == 3 else 0) + (0 if picture.alpha is None else 4)

    def write_chunk(name: bytes, data: bytes) -> None:
        file.write(struct.pack(">I", len(data)) + name + data)
        file.write(struct.pack(">I", zlib.crc32(name + data)))

    file.write(_PNG_SIGNATURE)
    write_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
    if picture.icc:
        write_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(picture.icc))
    if picture.exif:
        write_chunk(b"eXIf", picture.exif[len(_EXIF_PREFIX) :])
    deflate = zlib.compressobj(4)
    above = np.uint8(0)
    for block in _row_blocks(samples):
        rows = block.astype(">u2").reshape(len(block), -1).view(np.uint8)
        filtered = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
        filtered[:, 0] = 2  # the filter 'up': the difference to the row above
        filtered[0, 1:] = rows[0] - above
        filtered[1:, 1:] = rows[1:] - rows[:-1]
        above = rows[-1]
        if data := deflate.compress(filtered):
            write_chunk(b"IDAT", data)
    write_chunk(b"IDAT", deflate.flush())
    write_chunk(b"IEND", b"")


def _exif_directory(exif: bytes | None, path: str) -> ImageFileDirectory_v2:
    directory = ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    if exif:
        try:
            source = Image.Exif()
            source.load(exif)
            directory.update(_descriptive(source))
            directory.tobytes()
        except Exception:
            _log.warning("the EXIF of %s is damaged and left out", path)
            return ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    return directory


def _write_tiff(file: BinaryIO, picture: Picture) -> None:
    """Deflate in strips of about 1 MB, little-endian, each sample less its left neighbour."""
    samples = _interleaved(picture)
    height, width, channels = samples.reshape(*samples.shape[:2], -1).shape
    file.write(b"II*\0\0\0\0\0")
    offsets, sizes = [], []
    for block in _row_blocks(samples):
        differences = block.astype(block.dtype.newbyteorder("<"))
        differences[:, 1:] -= block[:, :-1]
        strip = zlib.compress(differences, 6)
        offsets.append(file.tell())
        sizes.append(len(strip))
        file.write(strip)
    file.write(b"\0" * (file.tell() % 2))
    directory_at = file.tell()
    if directory_at > 2**32 - 2**24:
        raise OSError(0, "TIFF holds at most 4 GB; choose png")

    directory = _exif_directory(picture.exif, file.name)
    directory[256], directory[257] = width, height
    directory[258] = (8 * samples.itemsize,) * channels
    directory[259] = 8  # Deflate
    directory[262] = 2 if picture.pixels.ndim == 3 else 1  # RGB, or gray with black as zero
    directory.tagtype[_STRIP_OFFSETS] = 4
    directory[_STRIP_OFFSETS], directory[279] = (0,) * len(offsets), tuple(sizes)
    directory[277], directory[278] = channels, max(1, _BLOCK_BYTES // samples[0].nbytes)
    directory[284], directory[317] = 1, 2  # interleaved, horizontal differences
    if picture.alpha is not None:
        directory[338] = 2  # alpha, not premultiplied
    if picture.icc:
        directory.tagtype[34675] = 7
        directory[34675] = picture.icc
    table = bytearray(directory.tobytes(directory_at))
    # Pillow takes strips to follow the directory and moves their offsets, so ours are set here.
    (at,) = (
        at + 8
        for at in range(2, 2 + 12 * len(directory), 12)
        if struct.unpack_from("<H", table, at)[0] == _STRIP_OFFSETS
    )
    if len(offsets) > 1:  # a single one stands in the entry itself
        at = struct.unpack_from("<L", table, at)[0] - directory_at
    struct.pack_into(f"<{len(offsets)}L", table, at, *offsets)
    file.write(table)
    file.seek(4)
    file.write(struct.pack("<I", directory_at))
