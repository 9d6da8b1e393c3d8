"""EXIF on its way from one file to another: bytes that start with `EXIF_PREFIX`, whole or None."""

from __future__ import annotations

import logging
import os
import struct
from typing import BinaryIO

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

EXIF_PREFIX = b"Exif\0\0"
ORIENTATION, WIDTH, HEIGHT = 274, 40962, 40963
_EXIF_IFD, _GPS_IFD = 34665, 34853
# Of a TIFF's first directory, what describes the photograph and not the file's layout:
# description, make, model, resolution and its unit, software, date, artist, copyright.
_DESCRIPTIVE_TAGS = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432)

_log = logging.getLogger(__name__)


def of_tiff(file: BinaryIO) -> bytes | None:
    """What describes the photograph in an open TIFF, as EXIF; None if there is nothing."""
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


def set_numbers(exif: bytes, values: dict[int, int], path: str | os.PathLike) -> bytes | None:
    """Changes numbers in place, so that makers' notes keep their offsets; drops the thumbnail."""
    data = memoryview(bytearray(exif))[len(EXIF_PREFIX) :]
    order = "<" if data[:2] == b"II" else ">"

    def set_in(ifd: int) -> int:
        (count,) = struct.unpack_from(order + "H", data, ifd)
        end = ifd + 2 + 12 * count
        for at in range(ifd + 2, end, 12):
            tag, _, number = struct.unpack_from(order + "HHL", data, at)
            if tag == ORIENTATION and tag in values:
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
    return EXIF_PREFIX + bytes(data)


def tiff_directory(exif: bytes | None, path: str) -> ImageFileDirectory_v2:
    """A TIFF directory that holds what describes the photograph, to be completed and written."""
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


def _descriptive(exif: Image.Exif) -> dict[int, object]:
    tags = {tag: exif[tag] for tag in _DESCRIPTIVE_TAGS if tag in exif}
    nested = {tag: dict(exif.get_ifd(tag)) for tag in (_EXIF_IFD, _GPS_IFD)}
    return tags | {tag: values for tag, values in nested.items() if values}
