"""Reads and writes images with their metadata: with libvips, or Pillow for formats libvips lacks."""

from __future__ import annotations

import errno
import logging
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

os.environ.setdefault("VIPS_WARNING", "0")  # none: errors are raised as exceptions
import pyvips

from common.errors import UserError
from common.files import LFS_POINTER, atomic
from common.machine import memory_limit
from images.pixels import to_rgb8

log = logging.getLogger("srgan")

# Allow only these decoders: untrusted files must not reach those for SVG, CSV, ...
pyvips.operation_block_set("VipsForeignLoad", True)
for _loader in ("Jpeg", "Png", "Webp", "Tiff", "Nsgif", "Heif"):
    pyvips.operation_block_set(f"VipsForeignLoad{_loader}", False)
pyvips.cache_set_max(0)  # a changed file must be read again
logging.getLogger("pyvips").setLevel(logging.ERROR)
pyvips._remove_log_handler()  # C calls it, and Ctrl-C would get lost there

PILLOW_FORMATS = ("BMP", "PPM", "TGA", "JPEG2000")
# Decoding takes up to 32 bytes per pixel, and the header of a small file may claim any size.
MAX_READ_PX = min(2**28, memory_limit() // 32)

WRITE_SUFFIXES = {
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
}
# No .heic: libvips in the pyvips wheel has no HEVC decoder.
READ_SUFFIXES = (*WRITE_SUFFIXES, ".gif", ".avif", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2")
_SAVE_OPTIONS = {
    "PNG": {},
    "JPEG": {"Q": 95, "subsample_mode": "off"},  # 4:4:4 keeps colours sharp at edges
    "WEBP": {"Q": 95, "smart_subsample": True, "exact": True, "alpha_q": 100},
    "TIFF": {"compression": "deflate", "predictor": "horizontal"},
}
_MAX_SIDE_PX = {"JPEG": 65500, "WEBP": 16383}
_MAX_EXIF_BYTES = {"JPEG": 65527, "TIFF": 0, "BMP": 0}  # TIFF: libvips writes none

# Metadata to keep: names or prefixes of libvips fields
_KEPT_FIELDS = (
    *("icc-profile-data", "xmp-data", "iptc-data", "exif-", "png-comment-"),
    *("image-description", "resolution-unit"),
)
_GVALUES = {bytes: pyvips.GValue.blob_type, str: pyvips.GValue.gstr_type}
# ImageJ, tifffile and microscopes store the image's layout here, which is wrong after upscaling
_LAYOUT_DESCRIPTIONS = ("ImageJ=", "{", "<?xml", "<OME")
# PNG colour chunks that libvips drops, except the gamma and primaries of sRGB, which change nothing
_SRGB_PRIMARIES = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
_LOST_PNG_CHUNK = re.compile(
    rb"(?<=\0\0\0[\x04\x20])(cICP|gAMA(?!\0\0\xb1\x8f)|cHRM(?!" + re.escape(_SRGB_PRIMARIES) + rb"))"
)
# PPM and JPEG 2000 headers with more than 8 bits per sample, which Pillow reduces to 8 for colour
_DEEP_PILLOW = re.compile(
    rb"P[36]\s(\s*#.*\n)*\s*\d+\s+\d+\s+(#.*\n)?\d{4,5}\s|.{,100}ihdr.{10}[\x08-\x0f]", re.DOTALL
)
# Match pyvips's own messages where possible: libvips's message buffer is shared by all threads.
_REASONS = {
    "unable to load from source": "it is not an image, or its format is not supported",
    "HEVC": "it is HEIC, which is not supported; save it as JPEG or PNG",
    "bad labq format": "its colour space is 8-bit LAB, which is not supported; save it as RGB",
    "samples out of range": "its sample type is not supported; save it with 8 or 16 bits",
    os.strerror(errno.ENOSPC): os.strerror(errno.ENOSPC),
}


@dataclass
class ImageData:
    """A decoded image, upright."""

    pixels: np.ndarray  # uint8 or uint16, [h, w] gray or [h, w, 3] RGB
    alpha: np.ndarray | None = None  # [h, w], same type, not premultiplied
    metadata: dict = field(default_factory=dict)  # libvips fields: ICC, EXIF, XMP, IPTC, text
    pixels_per_mm: tuple[float, float] = (1.0, 1.0)  # horizontal, vertical
    is_lossless_webp: bool = False


class Source:
    """An image file whose header has been read; the constructor raises UserError if that fails."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._vips = None  # stays None for formats that Pillow reads
        with _reading(path):
            with open(path, "rb") as file:
                self._head = file.read(4096)
                self.is_lossless_webp = self._head[8:12] == b"WEBP" and _is_lossless_webp(file)
            if self._head.startswith(LFS_POINTER):
                raise UserError("it is a Git LFS pointer; fetch the image with 'git lfs pull'")
            try:
                source = pyvips.Source.new_from_file(os.fsencode(path))
                self._vips = pyvips.Image.new_from_source(source, "", fail_on="error")
                upright = self._vips.autorot()
                self.height, self.width = upright.height, upright.width
            except pyvips.Error as error:
                try:
                    with Image.open(path, formats=PILLOW_FORMATS) as image:
                        self.width, self.height = image.size
                except Image.UnidentifiedImageError:
                    raise error from None
            if self.height * self.width > MAX_READ_PX:
                raise UserError(
                    f"it has {self.height * self.width / 1e6:.0f} megapixels; the limit on this "
                    f"machine is {MAX_READ_PX / 1e6:.0f}"
                )

    def read(self, with_metadata: bool = True) -> ImageData:
        """Decodes the first frame, rotated as EXIF says; 16 bits and floats in [0, 1] become uint16."""
        with _reading(self.path):
            image = decoded = self._vips or _decode_by_pillow(self.path)
            if image.interpretation in ("cmyk", "lab", "labs", "labq", "xyz", "lch"):  # with its own profile
                image = image.colourspace("srgb" if image.format == "uchar" else "rgb16")
            samples = np.atleast_3d(_to_integers(image.autorot()))
            colours = 3 if samples.shape[2] >= 3 else 1
            pixels = samples[..., :3] if colours == 3 else samples[..., 0]
            data = ImageData(pixels, samples[..., colours] if image.hasalpha() else None)
            if with_metadata:
                data.metadata = _metadata_of(decoded)
                data.pixels_per_mm = decoded.xres, decoded.yres
                data.is_lossless_webp = self.is_lossless_webp
                self._log_losses(decoded)
            return data

    def is_lossy(self) -> bool:
        """Whether the file is JPEG or lossy WebP, so that its pixels have compression artefacts."""
        loader = self._vips.get("vips-loader") if self._vips else ""
        return loader.startswith("jpeg") or (loader.startswith("webp") and not self.is_lossless_webp)

    def _log_losses(self, image: pyvips.Image) -> None:
        if image.get_n_pages() > 1:
            log.warning("%s holds several frames: only the first is used", self.path)
        if not self._vips and image.bands > 2 and _DEEP_PILLOW.match(self._head):
            log.warning("%s: colours in this format are read with 8 bits, not 16", self.path)
        chunks = {name.decode() for name in _LOST_PNG_CHUNK.findall(self._head) if self._head[1:4] == b"PNG"}
        if "icc-profile-data" in image.get_fields():
            chunks &= {"cICP"}  # the ICC profile, which is kept, overrides the others
        if chunks:
            log.warning("%s: dropped colour chunks: %s", self.path, ", ".join(sorted(chunks)))


def read_rgb(path: str | os.PathLike) -> np.ndarray:
    """Reads an image as uint8 [h, w, 3] RGB; drops alpha and rounds 16 bits to 8."""
    return to_rgb8(Source(path).read(with_metadata=False).pixels)


def write_rgb(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes uint8 [h, w, 3] RGB atomically, in the format given by the suffix."""
    assert (image.dtype, image.ndim, image.shape[-1]) == (np.uint8, 3, 3), image.shape
    write_image(path, ImageData(image))


def write_image(path: str | os.PathLike, data: ImageData) -> None:
    """Writes an image atomically, in the format given by the suffix; JPEG and lossy WebP with quality 95.

    Logs what the format cannot store: 16 bits are rounded to 8 (JPEG, WebP, BMP), alpha is flattened onto
    white (JPEG, BMP), EXIF is dropped (TIFF, BMP, JPEG above 64 KB). BMP silently loses all other metadata.
    """
    path = Path(path)
    check_fits(path, *data.pixels.shape[:2])
    kind = WRITE_SUFFIXES[path.suffix.lower()]
    with atomic(path) as part:
        try:
            image = _to_vips(data, kind, path)
            if kind == "BMP":
                Image.fromarray(image.numpy()).save(part)
                return
            options = dict(_SAVE_OPTIONS[kind])
            if kind == "WEBP":
                options["lossless"] = data.is_lossless_webp
            elif kind == "TIFF":
                options["bigtiff"] = data.pixels.nbytes * 4 / 3 > 2**32 - 2**24
            getattr(image, f"{kind.lower()}save")(os.fsencode(part), **options)
        except (pyvips.Error, MemoryError) as error:
            raise UserError(f"cannot write {path}: {_reason(error)}") from error


def check_fits(path: str | os.PathLike, height: int, width: int) -> None:
    """Raises UserError if the suffix is unknown or its format cannot hold an image of this size."""
    kind = WRITE_SUFFIXES.get(Path(path).suffix.lower())
    if kind is None:
        raise UserError(f"cannot write {path}: use one of {', '.join(WRITE_SUFFIXES)}")
    max_side = _MAX_SIDE_PX.get(kind, max(height, width))
    if max(height, width) > max_side:
        raise UserError(
            f"cannot write {path}: {kind} holds at most {max_side} pixels per side, "
            f"this image has {width} x {height}; choose png or tiff"
        )
    if kind == "BMP" and height * width * 3 >= 2**32 - 2048:
        raise UserError(f"cannot write {path}: BMP holds at most 4 GB; choose png or tiff")


@contextmanager
def _reading(path: str | os.PathLike) -> Iterator[None]:
    """Turns any exception of a decoder into a one-sentence UserError."""
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe would block
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
    text = str(error).strip() or type(error).__name__
    for symptom, reason in _REASONS.items():
        if symptom in text:
            return reason
    return f"it is damaged ({text.splitlines()[-1].strip()})"


def _is_lossless_webp(file) -> bool:
    """Looks for the first image data chunk; libvips does not report the compression."""
    file.seek(12)
    while len(header := file.read(8)) == 8 and header[:4] not in (b"VP8 ", b"VP8L"):
        size = int.from_bytes(header[4:], "little")
        file.seek(16 if header[:4] == b"ANMF" else size + size % 2, os.SEEK_CUR)
    return header[:4] == b"VP8L"


def _decode_by_pillow(path: Path) -> pyvips.Image:
    with Image.open(path, formats=PILLOW_FORMATS) as image:
        if image.mode.startswith("I"):  # 16 bits
            samples = np.array(image).clip(0, 65535).astype(np.uint16)
        else:
            mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
            samples = np.array(image.convert(mode + "A" * image.has_transparency_data))
    return pyvips.Image.new_from_array(samples, interpretation="auto")


def _to_integers(image: pyvips.Image) -> np.ndarray:
    """Returns uint8 or uint16 samples; raises UserError for other types and for floats outside [0, 1]."""
    if image.format in ("uchar", "ushort"):
        return image.numpy()
    if image.format not in ("float", "double"):
        raise UserError(f"its values are of type {image.format}; save it with 8 or 16 bits")
    values = image.numpy()
    if not (values.min() >= 0 and values.max() <= 1):  # false for NaN as well
        raise UserError("its float values are not all between 0 and 1; save it with 16 bits")
    return np.rint(values * 65535.0).astype(np.uint16)


def _metadata_of(image: pyvips.Image) -> dict:
    """Returns the metadata that remains valid for an RGB image of another size."""
    metadata = {name: image.get(name) for name in image.get_fields() if name.startswith(_KEPT_FIELDS)}
    if image.interpretation == "cmyk":
        metadata.pop("icc-profile-data", None)
    if metadata.get("image-description", "").startswith(_LAYOUT_DESCRIPTIONS):
        del metadata["image-description"]
    return metadata


def _to_vips(data: ImageData, kind: str, path: Path) -> pyvips.Image:
    """Reduces an image to what a format can store; samples without alpha are not copied if they fit."""
    samples = data.pixels if data.alpha is None else np.dstack([data.pixels, data.alpha])
    image = pyvips.Image.new_from_array(samples, interpretation="auto")
    if image.format == "ushort" and kind not in ("PNG", "TIFF"):
        log.warning("%s: %s does not support 16 bits; reduced to 8", path, kind)
        image = (image / 257).rint().cast("uchar")
    is_gray = data.pixels.ndim == 2
    spaces = {"uchar": ("srgb", "b-w"), "ushort": ("rgb16", "grey16")}
    xres, yres = data.pixels_per_mm
    image = image.copy(interpretation=spaces[image.format][is_gray], xres=xres, yres=yres)
    if data.alpha is not None and kind in ("JPEG", "BMP"):
        log.warning("%s: %s does not support transparency; flattened onto white", path, kind)
        image = image.cast("float").flatten(background=255, max_alpha=255).rint().cast("uchar")
    exif_bytes = len(data.metadata.get("exif-data", b""))
    if exif_bytes > _MAX_EXIF_BYTES.get(kind, exif_bytes):
        log.warning("%s: %s cannot store this EXIF data; dropped", path, kind)
    for name, value in data.metadata.items():
        colours = b"GRAY" if is_gray and kind != "WEBP" else b"RGB "  # WebP stores gray as RGB
        if name != "icc-profile-data" or value[16:20] == colours:
            image.set_type(_GVALUES[type(value)], name, value)
    for name in ("exif-ifd0-ImageWidth", "exif-ifd0-ImageLength"):  # sizes of the source image
        image.remove(name)
    image.set_type(pyvips.GValue.gint_type, "orientation", 1)
    return image
