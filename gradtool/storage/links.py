"""Symbolic links: which ones an output may be written through, and what is copied through them."""

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
    """The real path of an output: a symbolic link stays one, and its target is written.

    FileAccessError for an impossible path, and for a link on it that another user put into a
    directory such as /tmp, where anyone may create entries and nobody may remove another's: that
    user would choose what is overwritten. Linux does not follow such links either
    (`protected_symlinks`).
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


def real_path(path: str, on_link: Callable[[str, os.stat_result], None] | None = None) -> str:
    """The path with all links on it followed; parts that do not exist are kept.

    `on_link` is called with each link before it is followed. OSError where there are more links
    than the system follows: `os.path.realpath` recurses for each, so that a chain of a thousand,
    which anyone may plant, makes it fail with another error.
    """
    resolved, remaining, links = os.sep, _parts(os.path.join(os.getcwd(), path)), 0
    while remaining:
        part = remaining.pop()
        if part == os.pardir:
            resolved = os.path.dirname(resolved)
            continue
        entry = os.path.join(resolved, part)
        status = _status(entry)
        if status is None or not stat.S_ISLNK(status.st_mode):
            resolved = entry
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if on_link is not None:
            on_link(entry, status)
        target = os.readlink(entry)
        resolved = os.sep if os.path.isabs(target) else resolved
        remaining += _parts(target)
    return resolved


def _parts(path: str) -> list[str]:
    """The names that a path is made of, the last first."""
    return [part for part in reversed(path.split(os.sep)) if part not in ("", os.curdir)]


def _status(path: str) -> os.stat_result | None:
    """The status of a path, of a link itself; None if nothing is there, or it may not be read."""
    try:
        return os.lstat(path)
    except OSError:
        return None


class CopySource(NamedTuple):
    """Something to copy: where it is opened, and its status when it was looked at.

    `name` is opened in the open `directory`, or is a path where that is None. `status` is None
    where nothing exists. `is_inside` says whether it lies in the tree that is copied, or in the
    blobs of the Hugging Face cache that the tree belongs to.
    """

    directory: int | None
    name: str
    status: os.stat_result | None
    is_inside: bool


def link_target(real: str, root: str, root_fd: int, stack: ExitStack) -> CopySource:
    """The target of a link, whose real path is `real`, for a copy of the tree at `root`.

    A target inside is opened from the tree's open root on, with no link on the way.
    """
    if os.path.commonpath([real, root]) == root:
        *way, name = os.path.relpath(real, root).split(os.sep)
        missing = CopySource(None, name, None, is_inside=True)
        return _target_inside(way, name, root_fd, stack) or missing
    inside = None
    blobs, blob = os.path.split(real)
    snapshots = os.path.dirname(root)
    cache = os.path.dirname(snapshots)
    if os.path.basename(snapshots) == "snapshots" and blobs == os.path.join(cache, "blobs"):
        inside = _target_inside([os.pardir, os.pardir, "blobs"], blob, root_fd, stack)
    return inside or CopySource(None, real, _status(real), is_inside=False)


def _target_inside(
    way: list[str], name: str, directory: int, stack: ExitStack
) -> CopySource | None:
    """The entry `name` of the directory to which `way` leads; None where nothing is."""
    try:
        for part in way:
            directory = stack.enter_context(opened(part, dir_fd=directory))
        status = status_in(directory, name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None if status is None else CopySource(directory, name, status, is_inside=True)


def is_special(named: str, real: str, device: int) -> bool:
    """Whether a file is made up by the kernel, such as the memory of a process.

    `named` is the path that a link names, `real` the real path, `device` the file's device.
    """
    for top in _SPECIAL:
        if any(os.path.commonpath([os.path.normpath(path), top]) == top for path in (named, real)):
            return True
        if os.path.ismount(top) and os.stat(top).st_dev == device:
            return True
    return False
