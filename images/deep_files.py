"""The files that Pillow cannot read or write: 16-bit PNG, and TIFF with its EXIF.

OpenCV decodes 16-bit PNG and tifffile deep TIFF. Both are written here: their writers cannot carry EXIF and
gray with alpha. Samples are uint8 or uint16 [h, w] gray or [h, w, channels]: gray and alpha, RGB, or RGBA.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import cv2
import numpy as np
import tifffile

from common.errors import UserError
from images import metadata

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # its failures become a UserError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_STRIP_OFFSETS, _ICC = 273, 34675
_BLOCK_BYTES = 2**20

_log = logging.getLogger(__name__)


def decode_png16(data: bytes, transparent: int | None) -> tuple[np.ndarray, np.ndarray | None]:
    """(pixels, alpha) of a whole file; `transparent` is the value of gray that is so, if there is one."""
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16:
        raise ValueError("16-bit PNG")
    if samples.ndim == 2:
        if transparent is None:
            return samples, None
        return samples, np.where(samples == transparent, 0, 65535).astype(np.uint16)
    is_gray = not data[25] & 2  # bit 1 of the colour type; OpenCV makes colour of gray with alpha
    pixels = samples[..., 0] if is_gray else samples[..., 2::-1]
    return pixels, samples[..., 3] if samples.shape[2] == 4 else None


def first_page(file: BinaryIO) -> tifffile.TiffPage:
    return tifffile.TiffFile(file).pages[0]


def is_deep_tiff(file: BinaryIO) -> bool:
    """Whether Pillow would lose something of it."""
    page = first_page(file)
    file.seek(0)
    # Pillow converts 16-bit CMYK and the like to 8 bits, which will do for those.
    plain = page.photometric in (0, 1, 2)  # white is zero, black is zero, RGB
    return plain and (page.bitspersample > 8 or page.sampleformat != 1)


def read_deep_tiff(file: BinaryIO) -> tuple[np.ndarray, np.ndarray | None, bytes | None, int]:
    """(pixels, alpha, ICC profile, orientation) of the first page; uint16, values of 0 to 1 become 65535."""
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
    return pixels, alpha, page.tags.valueof(_ICC) or None, page.tags.valueof(metadata.ORIENTATION, 1)


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


def _row_blocks(samples: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(1, _BLOCK_BYTES // samples[0].nbytes)
    for top in range(0, len(samples), rows):
        yield samples[top : top + rows]


def write_png16(file: BinaryIO, samples: np.ndarray, icc: bytes | None, exif: bytes | None) -> None:
    height, width, channels = samples.reshape(*samples.shape[:2], -1).shape
    colour_type = (2 if channels >= 3 else 0) + (4 if channels in (2, 4) else 0)

    def write_chunk(name: bytes, data: bytes) -> None:
        file.write(struct.pack(">I", len(data)) + name + data)
        file.write(struct.pack(">I", zlib.crc32(name + data)))

    file.write(PNG_SIGNATURE)
    write_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
    if icc:
        write_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc))
    if exif:
        write_chunk(b"eXIf", exif[len(metadata.EXIF_PREFIX) :])
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


def write_tiff(file: BinaryIO, samples: np.ndarray, icc: bytes | None, exif: bytes | None) -> None:
    """Deflate in strips of about 1 MB, little-endian, each sample less its left neighbour."""
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

    directory = metadata.tiff_directory(exif, file.name)
    directory[256], directory[257] = width, height
    directory[258] = (8 * samples.itemsize,) * channels
    directory[259] = 8  # Deflate
    directory[262] = 2 if channels >= 3 else 1  # RGB, or gray with black as zero
    directory.tagtype[_STRIP_OFFSETS] = 4
    directory[_STRIP_OFFSETS], directory[279] = (0,) * len(offsets), tuple(sizes)
    directory[277], directory[278] = channels, max(1, _BLOCK_BYTES // samples[0].nbytes)
    directory[284], directory[317] = 1, 2  # interleaved, horizontal differences
    if channels in (2, 4):
        directory[338] = 2  # alpha, not premultiplied
    if icc:
        directory.tagtype[_ICC] = 7
        directory[_ICC] = icc
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
