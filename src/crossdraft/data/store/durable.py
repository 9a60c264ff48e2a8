"""Bytes that are still there after a crash, and one writer at a time."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from crossdraft.core.errors import CrossdraftError
from crossdraft.core.records import write_atomically


def write_durably(path: Path, data: bytes) -> None:
    """``data`` under ``path``, name and all, or nothing changed. CrossdraftError when it cannot be written."""
    write_atomically(path, data)
    try:
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable: a file's own fsync does not cover its name."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def append_durably(handle: int, data: bytes) -> None:
    """Append to an open file; returns once it is on the disk. Raises OSError, perhaps with a part written."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]
    os.fsync(handle)


def cannot_write(path: Path, error: OSError) -> CrossdraftError:
    """The one line for a full disk and its like."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    cure = "free some space" if full else "make it writable or choose another folder"
    return CrossdraftError(
        f"cannot write {path}: {error.strerror or error}; what was acknowledged is safe, {cure} and run it again"
    )


def lock(path: Path, busy: str | None = None) -> int:
    """Hold the lock file ``path`` until the returned handle is closed or this process ends, however it ends.

    busy: what to say if somebody else holds it; None: wait. Raises CrossdraftError.
    """
    handle: int | None = None
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if busy is None else fcntl.LOCK_NB))
    except OSError as error:
        if handle is not None:
            os.close(handle)
        if isinstance(error, BlockingIOError):
            raise CrossdraftError(str(busy)) from None
        raise cannot_write(path, error) from error
    return handle


@contextlib.contextmanager
def locked(path: Path, busy: str | None = None) -> Iterator[None]:
    """``lock`` for the time of a block."""
    handle = lock(path, busy)
    try:
        yield
    finally:
        os.close(handle)


def prefix_lock(root: Path, prefix: str) -> Path:
    """The lock file of the worker ``prefix``; it stays, so that everybody locks the same file."""
    return root / f".{prefix}.lock"
