"""Files written whole or not at all, folders held by one process, and what is no file of its kind."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LFS_POINTER = b"version https://git-lfs"  # how the file begins that stands for one in Git LFS


@contextlib.contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a path beside `path`, of its suffix, to write to; then syncs and renames that to `path`.

    Its name is short and fixed: the next write replaces what a killed one left behind. Raises UserError where
    the disk refuses; what stood at `path` is kept then.
    """
    path = Path(path)
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]
    part = path.with_name(f".{name}.part{path.suffix[:16]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error
        raise


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder survive a loss of power, where the system can."""
    with contextlib.suppress(OSError):  # Windows opens no folders, some network file systems sync none
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps a folder to this process: UserError if another holds it. The lock ends with the process."""
    if fcntl is None:
        yield
        return
    with open(folder / ".lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):  # others: a file system without locks
                raise UserError(
                    f"another run is training in {folder}: wait for it, stop it, "
                    "or use another --checkpoint-dir"
                ) from None
        yield


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
