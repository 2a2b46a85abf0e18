"""Open directories: work in one stays in it, whatever its path comes to name meanwhile.

Each system call looks up a path anew, and whoever may write in a directory on it may put a link
there in between. A descriptor keeps naming what was opened.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_FLAGS: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_directory(name: str, *, dir_fd: int | None = None) -> int:
    """Open a directory to list it and work in it; OSError for anything else, even a link to one."""
    return os.open(name, os.O_RDONLY | _FLAGS, dir_fd=dir_fd)


@contextmanager
def opened(name: str, *, dir_fd: int | None = None) -> Iterator[int]:
    """As `open_directory`, until the end of the context."""
    descriptor = open_directory(name, dir_fd=dir_fd)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_parent(path: str) -> int:
    """Open a directory to create entries in it, even if it may be written but not read.

    Only Linux opens such a directory; elsewhere it is a PermissionError.
    """
    try:
        return open_directory(path)
    except PermissionError:
        if not hasattr(os, "O_PATH"):
            raise
        return os.open(path, os.O_PATH | _FLAGS)


def sync_names(directory: int) -> None:
    """Sync the entries of an open directory to disk.

    A directory that may not be read cannot be synced alone: everything is synced. On Linux, where
    alone such a directory can be open, sync(2) waits for that.
    """
    if hasattr(os, "O_PATH") and fcntl.fcntl(directory, fcntl.F_GETFL) & os.O_PATH:
        os.sync()
    else:
        os.fsync(directory)


def status_in(directory: int, name: str) -> os.stat_result | None:
    """The status of an entry of an open directory, of a link itself; None where there is none."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def is_at(path: str, directory: int) -> bool:
    """Whether a path, itself no link, names an open directory."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(directory))
    except (FileNotFoundError, NotADirectoryError):
        return False
