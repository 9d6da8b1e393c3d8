"""Files written whole or not at all, and what is no file of its kind."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError

LFS_POINTER = b"version https://git-lfs"  # how the file begins that stands for one in Git LFS


@contextlib.contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a path beside `path`, of its suffix, to write to; then syncs and renames that to `path`.

    A fixed name, so that the next write replaces what a killed one left behind. Raises UserError where the
    disk refuses; what stood at `path` is kept then.
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error
        raise


def require_writable(folder: str | os.PathLike, option: str) -> None:
    """Makes the folder if it is not there and tries it; raises UserError that names the option."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{option}: cannot write to {str(folder)!r} ({error.strerror}); name another folder"
        ) from error
