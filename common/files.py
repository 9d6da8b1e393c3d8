"""Atomic writes, and folders that one process holds."""

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

LFS_POINTER = b"version https://git-lfs"  # first bytes of a Git LFS pointer


@contextlib.contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path to write to, with the same suffix; then syncs it and renames it to `path`.

    Its name is short and fixed, so that the next write replaces what a killed one left. Raises UserError
    where the disk refuses, and keeps the old file.
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
    """Locks a folder for this process; UserError if another one holds it. The lock ends with the process."""
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
    """Makes the folder if necessary and tries to write there; the UserError names the option."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{option}: cannot write to {str(folder)!r} ({error.strerror}); name another folder"
        ) from error
