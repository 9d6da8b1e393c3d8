"""Atomic writes and folder locks."""

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
    """Yields a temporary path with the same suffix, then syncs that file and renames it to `path`.

    The temporary name depends only on `path`, so the next write replaces what a killed process left behind.
    If the write fails, the old file stays; an OSError becomes a UserError.
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
    """Makes renames in a folder survive a power failure, where the system supports it."""
    with contextlib.suppress(OSError):  # neither Windows nor some network file systems can
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Locks a folder; raises UserError if another process holds the lock. The lock ends with the process."""
    if fcntl is None:
        yield
        return
    with open(folder / ".lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):  # otherwise the file system has no locks
                raise UserError(
                    f"another run is training in {folder}: wait for it, stop it, "
                    "or use another --checkpoint-dir"
                ) from None
        yield


def require_writable(folder: str | os.PathLike, option: str) -> None:
    """Creates the folder if necessary; raises a UserError that names `option` if it is not writable."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{option}: cannot write to {str(folder)!r} ({error.strerror}); choose another folder"
        ) from error
