"""Which files of a folder are pictures."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from common.errors import UserError
from images.files import FORMAT_OF_SUFFIX

# What is read but not written: results of such pictures are PNG.
READ_SUFFIXES = (*FORMAT_OF_SUFFIX, ".gif", ".avif")


def list_pictures(folder: str | os.PathLike, setting: str, skip: Collection[Path] = ()) -> list[Path]:
    """Pictures in a folder and all folders below it, sorted; `setting` names it in errors.

    Passed over are names that begin with a dot ('._a.jpg' of macOS, unfinished files of our own), links in
    a circle, and the folders `skip`, given resolved.
    """
    folder = Path(folder)
    if folder.is_file():
        raise UserError(f"{setting}: {str(folder)!r} is a file; name the folder it lies in")
    if not folder.exists():
        raise UserError(f"{setting}: there is no folder {str(folder)!r}; name one with pictures")

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{setting}: cannot read the folder {error.filename!r} ({error.strerror}); "
            "change its permissions or name another folder"
        )

    found: list[Path] = []
    seen = set(skip)
    # without onerror os.walk passes over folders that it may not read
    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        if (real_root := Path(root).resolve()) in seen:
            folders.clear()
            continue
        seen.add(real_root)
        folders[:] = [name for name in folders if not name.startswith(".")]
        here = [Path(root, name) for name in names if not name.startswith(".")]
        here = [path for path in here if path.suffix.lower() in READ_SUFFIXES]
        # not pipes and devices; a link to nothing is told of when it is read
        found += [path for path in here if os.path.isfile(path) or not os.path.exists(path)]
    if not found:
        kinds = ", ".join(suffix[1:] for suffix in READ_SUFFIXES)
        raise UserError(f"{setting}: no pictures in {str(folder)!r}; put some there ({kinds})")
    return sorted(found)
