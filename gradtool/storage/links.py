"""Symbolic links: whose they may be on the way to an output, and what is never read through one."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, NamedTuple

from gradtool.errors import FileAccessError
from gradtool.storage.directories import opened, status_in

_MOST_LINKS: Final = 40
_ANYONES: Final = stat.S_ISVTX | stat.S_IWOTH
_SPECIAL: Final = ("/proc", "/sys")


def target_path(shown: str) -> str:
    """The real path of an output: a symbolic link stays one, and what it names is written.

    FileAccessError for what can be no path, and where the link is another user's in a directory
    such as /tmp, where anyone may put one and nobody may take away another's: whoever runs
    gradtool would write what that user wants to have written. Linux follows none of these
    either (`protected_symlinks`).
    """

    def refuse_planted(path: str, link: os.stat_result) -> None:
        directory = os.stat(os.path.dirname(path))
        trusted = (os.geteuid(), directory.st_uid)
        if directory.st_mode & _ANYONES == _ANYONES and link.st_uid not in trusted:
            planted = f"{path} is a link, which another user put where anyone may"
            raise FileAccessError(shown, f"cannot be written: {planted}", hint="give another path")

    try:
        return real_path(shown, refuse_planted)
    except (OSError, ValueError) as error:
        # Loops of links, a current directory that is gone, characters that no path may have.
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise FileAccessError(shown, f"cannot be written: {reason}") from error


def real_path(path: str, meet: Callable[[str, os.stat_result], None] | None = None) -> str:
    """What a path comes to when each link on it is followed; what is not there is kept as it is.

    `meet` is told of each link before it is followed. OSError where there are more than the
    system follows: `os.path.realpath` calls itself for each, and whoever plants a thousand of
    them, each naming the next, has that fail in a way of its own.
    """
    at, left, links = os.sep, _parts(os.path.join(os.getcwd(), path)), 0
    while left:
        part = left.pop()
        if part == os.pardir:
            at = os.path.dirname(at)
            continue
        entry = os.path.join(at, part)
        status = _status(entry)
        if status is None or not stat.S_ISLNK(status.st_mode):
            at = entry
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if meet is not None:
            meet(entry, status)
        named = os.readlink(entry)
        at = os.sep if os.path.isabs(named) else at
        left += _parts(named)
    return at


def _parts(path: str) -> list[str]:
    """The names that a path is made of, the last first."""
    return [part for part in reversed(path.split(os.sep)) if part not in ("", os.curdir)]


def _status(path: str) -> os.stat_result | None:
    """What is there itself; None for what is not, or may not be looked at."""
    try:
        return os.lstat(path)
    except OSError:
        return None


class Named(NamedTuple):
    """What a link names: where it is opened, by which name, and its status when it was looked at.

    `directory` is an open one, or None for a path; `status` None where nothing is. `is_near` is
    whether it lies in the tree that is copied, or where that keeps its files.
    """

    directory: int | None
    name: str
    status: os.stat_result | None
    is_near: bool


def named_by(real: str, root: str, root_fd: int, stack: ExitStack) -> Named:
    """What is at the real path `real`: in the tree at `root`, in its cache's blobs, or elsewhere.

    What lies near is opened from the tree's root on, which is open, with no link on the way.
    """
    if os.path.commonpath([real, root]) == root:
        *way, name = os.path.relpath(real, root).split(os.sep)
        return _near(way, name, root_fd, stack) or Named(None, name, None, is_near=True)
    near = None
    blobs, blob = os.path.split(real)
    snapshots = os.path.dirname(root)
    cache = os.path.dirname(snapshots)
    if os.path.basename(snapshots) == "snapshots" and blobs == os.path.join(cache, "blobs"):
        near = _near([os.pardir, os.pardir, "blobs"], blob, root_fd, stack)
    return near or Named(None, real, _status(real), is_near=False)


def _near(way: list[str], name: str, directory: int, stack: ExitStack) -> Named | None:
    """What is so named at the end of the way; None where nothing is."""
    try:
        for part in way:
            directory = stack.enter_context(opened(part, dir_fd=directory))
        status = status_in(directory, name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None if status is None else Named(directory, name, status, is_near=True)


def is_special(named: str, real: str, device: int) -> bool:
    """Whether a file is the kernel's own word on something, such as the memory of a process.

    `named` is what a link to it says, and `real` what that leads to.
    """
    for top in _SPECIAL:
        if any(os.path.commonpath([os.path.normpath(path), top]) == top for path in (named, real)):
            return True
        if os.path.ismount(top) and os.stat(top).st_dev == device:
            return True
    return False
