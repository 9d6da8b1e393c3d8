"""Finds the images in a folder."""

from __future__ import annotations

import collections
import logging
import mimetypes
import os
import re
from collections.abc import Collection
from pathlib import Path

from common.errors import UserError
from images.files import READ_SUFFIXES

log = logging.getLogger("srgan")

# Image formats that mimetypes does not know on every system
_MORE_SUFFIXES = re.compile(r"\.(heic|heif|jxl|exr|hdr|psd|dng|nef|cr2|cr3|arw|raf|orf|rw2)")


def list_images(folder: str | os.PathLike, setting: str, skip: Collection[Path] = ()) -> list[Path]:
    """Returns the images in a folder and its subfolders, sorted; `setting` names the folder in errors.

    Skips names that begin with a dot (macOS's '._a.jpg', unfinished files of this program), circular links
    and the folders in `skip`, which must be resolved. Logs the number of images in unsupported formats.
    """
    folder = Path(folder)
    if folder.is_file():
        raise UserError(f"{setting}: {str(folder)!r} is a file; name its folder")
    if not folder.exists():
        raise UserError(f"{setting}: there is no folder {str(folder)!r}; name one with images")

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{setting}: cannot read the folder {error.filename!r} ({error.strerror}); "
            "change its permissions or name another folder"
        )

    found: list[Path] = []
    seen = set(skip)
    # without onerror, os.walk silently skips unreadable folders
    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        if (real_root := Path(root).resolve()) in seen:
            folders.clear()
            continue
        seen.add(real_root)
        folders[:] = [name for name in folders if not name.startswith(".")]
        here = [Path(root, name) for name in names if not name.startswith(".")]
        # no pipes or devices; a broken link is reported when it is read
        found += [path for path in here if os.path.isfile(path) or not os.path.exists(path)]
    images = [path for path in found if path.suffix.lower() in READ_SUFFIXES]
    unread = collections.Counter(path.suffix.lower() for path in found if _is_image_of_other_kind(path))
    if unread:
        kinds = ", ".join(f"{suffix} ({count})" for suffix, count in sorted(unread.items()))
        log.warning("%s: skipped images in unsupported formats: %s", folder, kinds)
    if not images:
        kinds = ", ".join(suffix[1:] for suffix in READ_SUFFIXES)
        raise UserError(f"{setting}: no images in {str(folder)!r}; supported formats: {kinds}")
    return sorted(images)


def _is_image_of_other_kind(path: Path) -> bool:
    suffix, kind = path.suffix.lower(), mimetypes.guess_type(path.name)[0] or ""
    return suffix not in READ_SUFFIXES and (kind.startswith("image/") or _MORE_SUFFIXES.fullmatch(suffix))
