"""Directories held open: what is done in one is done there, whatever its path comes to mean.

A path is looked up anew by each system call, and whoever may write in a directory on it may put
a link in between. A descriptor stays what it was opened as.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_ITSELF: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_directory(name: str, *, dir_fd: int | None = None) -> int:
    """A directory to list and to work in; OSError for anything else, a link to one included."""
    return os.open(name, os.O_RDONLY | _ITSELF, dir_fd=dir_fd)


@contextmanager
def opened(name: str, *, dir_fd: int | None = None) -> Iterator[int]:
    """The same for as long as the context lasts."""
    descriptor = open_directory(name, dir_fd=dir_fd)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_parent(path: str) -> int:
    """A directory to put something in, which may be one that may be written and not read.

    Linux opens such a one as a place to work in. Elsewhere it is a PermissionError.
    """
    try:
        return open_directory(path)
    except PermissionError:
        if not hasattr(os, "O_PATH"):
            raise
        return os.open(path, os.O_PATH | _ITSELF)


def sync_names(directory: int) -> None:
    """Have the disk hold the names in an open directory.

    A directory that may not be read cannot be synced by itself. There all that the system holds
    is synced, for which sync(2) waits on Linux, where alone such a one was opened.
    """
    if hasattr(os, "O_PATH") and fcntl.fcntl(directory, fcntl.F_GETFL) & os.O_PATH:
        os.sync()
    else:
        os.fsync(directory)


def status_in(directory: int, name: str) -> os.stat_result | None:
    """What has that name in an open directory, if anything; a link is itself."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def is_at(path: str, directory: int) -> bool:
    """Whether a path, which no link is to end, names an open directory."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(directory))
    except (FileNotFoundError, NotADirectoryError):
        return False
