"""Image files in and out, with their metadata: by libvips, or Pillow for the few formats it lacks."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pyvips
from PIL import Image

from common.errors import UserError
from common.files import LFS_POINTER, atomic
from common.machine import memory_limit
from images.pixels import on_white, to_8bit, to_rgb8

log = logging.getLogger("srgan")

# Decoders for formats that untrusted files should not reach (SVG, CSV, ...) stay blocked.
pyvips.operation_block_set("VipsForeignLoad", True)
for _loader in ("Jpeg", "Png", "Webp", "Tiff", "Nsgif", "Heif"):
    pyvips.operation_block_set(f"VipsForeignLoad{_loader}", False)
pyvips.cache_set_max(0)  # a file that changes is read anew
logging.getLogger("pyvips").setLevel(logging.ERROR)  # what is wrong with a file comes as an exception

PILLOW_FORMATS = ("BMP", "PPM", "TGA", "JPEG2000")
# Decoding takes up to 32 bytes a pixel, and a small file may claim to be vast.
MAX_READ_PX = min(2**28, memory_limit() // 32)

WRITE_SUFFIXES = {
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
}
_READ_ONLY = ".gif .avif .heic .heif .ppm .pgm .pbm .pnm .tga .jp2"
READ_SUFFIXES = (*WRITE_SUFFIXES, *_READ_ONLY.split())
_MAX_SIDE_PX = {"JPEG": 65500, "WEBP": 16383}
_JPEG_MAX_EXIF = 65527

# What is carried from one file to another: fields of libvips by their names or their beginnings
_KEPT_FIELDS = ("icc-profile-data", "xmp-data", "iptc-data", "resolution-unit", "exif-", "png-comment-")
_OLD_SIZE = ("exif-ifd0-ImageWidth", "exif-ifd0-ImageLength")
# Descriptions by which ImageJ, tifffile and microscopes find pixels again: wrong for another size
_LAYOUT_DESCRIPTIONS = ("ImageJ=", "{", "<?xml", "<OME")


@dataclass
class Picture:
    """A decoded image, upright."""

    pixels: np.ndarray  # uint8 or uint16, [h, w] gray or [h, w, 3] RGB
    alpha: np.ndarray | None = None  # the same type, [h, w], not premultiplied
    metadata: dict = field(default_factory=dict)  # ICC, EXIF, XMP, IPTC, text: fields of libvips
    pixels_per_mm: tuple[float, float] = (1.0, 1.0)  # horizontally, vertically
    is_lossless_webp: bool = False


class Source:
    """An image file whose header is read: `height`, `width`; UserError for whatever cannot be read."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._vips = None
        with _reading(path):
            with open(path, "rb") as file:
                self._head = file.read(4096)
            if self._head.startswith(LFS_POINTER):
                raise UserError("it is a Git LFS pointer; fetch the image with 'git lfs pull'")
            try:
                source = pyvips.Source.new_from_file(os.fsencode(path))
                self._vips = pyvips.Image.new_from_source(source, "", fail_on="error")
            except pyvips.Error as error:
                try:
                    with Image.open(path, formats=PILLOW_FORMATS) as image:
                        self.width, self.height = image.size
                except Image.UnidentifiedImageError:
                    raise error from None
            else:
                upright = self._vips.autorot()
                self.height, self.width = upright.height, upright.width
            if self.height * self.width > MAX_READ_PX:
                raise UserError(
                    f"it has {self.height * self.width / 1e6:.0f} megapixels, and at most "
                    f"{MAX_READ_PX / 1e6:.0f} are read on this machine"
                )

    def read(self, with_metadata: bool = True) -> Picture:
        """The first frame, turned as EXIF says; 16 bits and floats of 0 to 1 give uint16."""
        with _reading(self.path):
            return self._read_vips(with_metadata) if self._vips else self._read_pillow()

    def is_lossy(self) -> bool:
        """Whether the file is JPEG or lossy WebP, and its image has their artefacts."""
        loader = self._vips.get("vips-loader") if self._vips else ""
        return loader.startswith("jpeg") or (loader.startswith("webp") and not _is_lossless_webp(self.path))

    def _read_vips(self, with_metadata: bool) -> Picture:
        image, fields = self._vips, self._vips.get_fields()
        if with_metadata and "n-pages" in fields and image.get("n-pages") > 1:
            log.warning("%s holds several frames: only the first is used", self.path)
        if image.interpretation == "cmyk":
            image, fields = _cmyk_to_srgb(image), [name for name in fields if name != "icc-profile-data"]
        elif image.interpretation in ("lab", "labs", "labq", "xyz", "lch"):
            image = image.colourspace("srgb" if image.format == "uchar" else "rgb16")
        samples = _to_integers(image.autorot())
        samples = samples.reshape(*samples.shape[:2], -1)
        colours = 3 if samples.shape[2] >= 3 else 1
        pixels = samples[..., :3] if colours == 3 else samples[..., 0]
        picture = Picture(pixels, samples[..., colours] if image.hasalpha() else None)
        if with_metadata:
            kept = [name for name in fields if name.startswith(_KEPT_FIELDS)]
            picture.metadata = {name: self._vips.get(name) for name in kept}
            description = self._vips.get("image-description") if "image-description" in fields else ""
            if description and not description.startswith(_LAYOUT_DESCRIPTIONS):
                picture.metadata["image-description"] = description
            picture.pixels_per_mm = self._vips.xres, self._vips.yres
            picture.is_lossless_webp = _is_lossless_webp(self.path)
            if b"IHDR" in self._head and b"cICP" in self._head:
                log.warning("%s: its colour chunk cICP is not kept", self.path)
        return picture

    def _read_pillow(self) -> Picture:
        with Image.open(self.path, formats=PILLOW_FORMATS) as image:
            if image.mode.startswith("I"):  # 16 bits
                values = np.array(image)
                return Picture(values.clip(0, 65535).astype(np.uint16))
            is_gray = image.mode in ("1", "L", "LA")
            mode = ("L" if is_gray else "RGB") + ("A" if image.has_transparency_data else "")
            samples = np.array(image.convert(mode))
        if mode in ("L", "RGB"):
            return Picture(samples)
        return Picture(samples[..., 0] if is_gray else samples[..., :3], samples[..., -1])


def read_picture(path: str | os.PathLike) -> Picture:
    """An image file, decoded."""
    return Source(path).read()


def read_rgb(path: str | os.PathLike) -> np.ndarray:
    """An image file -> uint8 [h, w, 3] RGB: alpha is dropped, 16 bits become the nearest 8."""
    return to_rgb8(Source(path).read(with_metadata=False).pixels)


def write_rgb(path: str | os.PathLike, image: np.ndarray) -> None:
    """uint8 [h, w, 3] RGB -> a file, its format by its suffix, atomically."""
    assert (image.dtype, image.ndim, image.shape[-1]) == (np.uint8, 3, 3), image.shape
    write_picture(path, Picture(image))


def write_picture(path: str | os.PathLike, picture: Picture) -> None:
    """Writes the format of the suffix, atomically.

    What a format cannot hold is reduced and logged: 16 bits to 8 (JPEG, WebP, BMP), alpha onto white (JPEG,
    BMP). TIFF takes no EXIF, BMP no metadata at all. JPEG and lossy WebP have quality 95.
    """
    path = Path(path)
    check_fits(path, *picture.pixels.shape[:2])
    kind = WRITE_SUFFIXES[path.suffix.lower()]
    picture = _adapted(picture, kind, path)
    with atomic(path) as part:
        if kind == "BMP":
            iio.imwrite(part, picture.pixels, plugin="pillow", extension=".bmp")
            return
        try:
            image, name = _to_vips(picture, kind, path), os.fsencode(part)
            if kind == "PNG":
                image.pngsave(name)
            elif kind == "JPEG":
                image.jpegsave(name, Q=95, subsample_mode="off")  # 4:4:4: edges keep their colour
            elif kind == "WEBP":
                lossy = {} if picture.is_lossless_webp else {"Q": 95, "smart_subsample": True}
                image.webpsave(name, lossless=picture.is_lossless_webp, exact=True, alpha_q=100, **lossy)
            else:
                is_big = picture.pixels.nbytes * 4 / 3 > 2**32 - 2**24
                image.tiffsave(name, compression="deflate", predictor="horizontal", bigtiff=is_big)
        except (pyvips.Error, MemoryError) as error:
            raise UserError(f"cannot write {path}: {_reason(error)}") from error


def check_fits(path: str | os.PathLike, height: int, width: int) -> None:
    """UserError if the format of this suffix is unknown or cannot hold an image of this size."""
    kind = WRITE_SUFFIXES.get(Path(path).suffix.lower())
    if kind is None:
        raise UserError(f"cannot write {path}: use one of {', '.join(WRITE_SUFFIXES)}")
    max_side = _MAX_SIDE_PX.get(kind, max(height, width))
    if max(height, width) > max_side:
        raise UserError(
            f"cannot write {path}: {kind} holds at most {max_side} pixels a side, "
            f"this image has {width} x {height}; choose png or tiff"
        )
    if kind == "BMP" and height * width * 3 >= 2**32 - 2048:
        raise UserError(f"cannot write {path}: BMP holds at most 4 GB; choose png or tiff")


@contextmanager
def _reading(path: str | os.PathLike) -> Iterator[None]:
    """Turns whatever a decoder raises into one sentence."""
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
            raise UserError("it is not a file")
        yield
    except Exception as error:
        raise UserError(f"cannot read {path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    if "is not a known file format" in text or "is not in a known format" in text:
        return "it is not an image, or of a kind that is not supported"
    if "bad labq format" in text:
        return "its colours are 8-bit LAB, which are not supported; save it as RGB"
    if "samples out of range" in text:
        return "its samples are of a kind that is not supported; save it with 8 or 16 bits"
    if (full := os.strerror(errno.ENOSPC)) in text:
        return full
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"it is damaged ({lines[-1] if lines else type(error).__name__})"


def _is_lossless_webp(path: Path) -> bool:
    """By the first chunk of pixels, which libvips does not tell."""
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] + head[8:] != b"RIFFWEBP":
            return False
        while len(header := file.read(8)) == 8:
            if header[:4] in (b"VP8 ", b"VP8L"):
                return header[:4] == b"VP8L"
            size = int.from_bytes(header[4:], "little")
            file.seek(16 if header[:4] == b"ANMF" else size + size % 2, os.SEEK_CUR)
    return False


def _cmyk_to_srgb(image: pyvips.Image) -> pyvips.Image:
    """By the file's own profile if it has a valid one, else by a common one for print."""
    try:
        return image.icc_transform("srgb", embedded=True, input_profile="cmyk").copy_memory()
    except pyvips.Error:
        return image.colourspace("srgb")


def _to_integers(image: pyvips.Image) -> np.ndarray:
    """uint8 or uint16 samples; UserError for numbers that are no brightness."""
    if image.format in ("uchar", "ushort"):
        return image.numpy()
    if image.format not in ("float", "double"):
        raise UserError(f"its values are of type {image.format}; save it with 8 or 16 bits")
    values = image.numpy()
    if not (values.min() >= 0 and values.max() <= 1):  # false for NaN as well
        raise UserError("its float values are not all in 0 to 1; save it with 16 bits")
    return np.rint(values * 65535.0).astype(np.uint16)


def _adapted(picture: Picture, kind: str, path: Path) -> Picture:
    """The image as this format can hold it."""
    pixels, alpha = picture.pixels, picture.alpha
    if pixels.dtype == np.uint16 and kind not in ("PNG", "TIFF"):
        log.warning("%s: %s has no 16 bits, reduced to 8", path, kind)
        pixels, alpha = to_8bit(pixels), None if alpha is None else to_8bit(alpha)
    if alpha is not None and kind in ("JPEG", "BMP"):
        log.warning("%s: %s has no transparency, laid on white", path, kind)
        pixels, alpha = on_white(pixels, alpha), None
    return replace(picture, pixels=pixels, alpha=alpha)


def _to_vips(picture: Picture, kind: str, path: Path) -> pyvips.Image:
    """The samples, without a copy where there is no alpha, and the metadata that is true of them."""
    samples = picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
    samples = np.ascontiguousarray(samples)
    height, width = samples.shape[:2]
    is_gray, is_deep = picture.pixels.ndim == 2, samples.dtype == np.uint16
    interpretation = ("grey16" if is_deep else "b-w") if is_gray else ("rgb16" if is_deep else "srgb")
    bands = samples.size // (height * width)
    image = pyvips.Image.new_from_memory(samples.data, width, height, bands, "ushort" if is_deep else "uchar")
    xres, yres = picture.pixels_per_mm
    image = image.copy(interpretation=interpretation, xres=xres, yres=yres)
    for name, value in picture.metadata.items():
        colours = b"GRAY" if is_gray and kind != "WEBP" else b"RGB "  # WebP makes colour of gray
        if name == "icc-profile-data" and value[16:20] != colours:
            continue
        if (
            name.startswith("exif-")
            and kind == "JPEG"
            and len(picture.metadata["exif-data"]) > _JPEG_MAX_EXIF
        ):
            if name == "exif-data":
                log.warning("%s: EXIF is too long for JPEG and left out", path)
            continue
        kind_of = {bytes: pyvips.GValue.blob_type, str: pyvips.GValue.gstr_type}
        image.set_type(kind_of[type(value)], name, value)
    for name in _OLD_SIZE:
        image.remove(name)
    image.set_type(pyvips.GValue.gint_type, "orientation", 1)
    return image
