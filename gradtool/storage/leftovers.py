"""What a gradtool that was killed has left behind, and only that: recognised and cleared.

Anyone who may write in a directory may put there what looks like a leftover, change it at any
moment, and wait for somebody with more rights to clear it. So every step is taken in a directory
that is open, nothing is followed through a link, and whatever gradtool would not have made is
left alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from enum import Enum
from typing import Final

from gradtool.storage.directories import opened, status_in
from gradtool.storage.lock import HELD_FILE, acquire

LOCK: Final = "lock"
BUILT: Final = "built"
"""What there is in a workspace: the file that is locked, and the directory with the work."""

_NAME: Final = re.compile(r"\.gradtool-[0-9a-f]{16}\.tmp")
_MOST_NAMES: Final = 10_000
_MOST_LOOKS: Final = 10
_DEEPEST: Final = 100


def is_workspace(name: str) -> bool:
    """Whether a directory entry so named is a workspace, of this process or of one that died."""
    return _NAME.fullmatch(name) is not None


def workspace_names(target: str) -> Iterator[str]:
    """What the workspace of a target of that name may be called, the first first.

    Every process tries them in this order and takes the first at which nothing foreign is, so
    that two of one target meet there, and who plants something at some of them stops nobody.
    """
    import hashlib  # noqa: PLC0415 - which complains on stderr where memory is short

    for attempt in range(_MOST_NAMES):
        # Hashed, because a name may be as long as names can be; and none has a slash.
        told = os.fsencode(target) + (b"/%d" % attempt if attempt else b"")
        yield f".gradtool-{hashlib.blake2b(told, digest_size=8).hexdigest()}.tmp"


class Found(Enum):
    """What was at a workspace's name, once all was cleared that may be."""

    NOTHING = 1
    BUSY = 2
    FOREIGN = 3


def clear_all(parent: int) -> None:
    """Clear the leftovers in an open directory, which may be one that may not be listed."""
    with contextlib.suppress(OSError):
        for name in filter(is_workspace, os.listdir(parent)):
            clear(name, parent)


def clear(name: str, parent: int) -> Found:
    """Remove the leftover so named in the open directory `parent`, if it is one of this user's.

    BUSY is a workspace in which somebody works, or may: where a file system knows no locks,
    nobody can tell. FOREIGN is all that no gradtool of this user has made, and what cannot be
    removed.
    """
    for _ in range(_MOST_LOOKS):
        try:
            with opened(name, dir_fd=parent) as directory:
                return _clear(name, parent, directory)
        except FileNotFoundError:  # somebody else has cleared it, or is about to
            if status_in(parent, name) is None:
                return Found.NOTHING
        except OSError:
            break
    return Found.FOREIGN


def _clear(name: str, parent: int, directory: int) -> Found:
    if os.fstat(directory).st_uid != os.geteuid():
        return Found.FOREIGN
    if _removed(name, parent):  # killed before there was a file to lock
        return Found.NOTHING
    if not set(os.listdir(directory)) <= {LOCK, BUILT}:
        return Found.FOREIGN
    lock = os.open(LOCK, HELD_FILE, dir_fd=directory)
    try:
        if not _is_own_lock(os.fstat(lock)):
            return Found.FOREIGN
        if not acquire(lock, required=True):
            return Found.BUSY
        if not is_lock_of(lock, directory):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), LOCK)
        remove(name, parent, directory)
    finally:
        os.close(lock)
    return Found.NOTHING


def _is_own_lock(status: os.stat_result) -> bool:
    """Whether it is what gradtool makes: an empty file of this user, under no other name."""
    is_empty_file = stat.S_ISREG(status.st_mode) and status.st_size == 0
    return is_empty_file and status.st_nlink <= 1 and status.st_uid == os.geteuid()


def is_lock_of(lock: int, directory: int) -> bool:
    """Whether an open file is still the one by which an open workspace is locked."""
    status = status_in(directory, LOCK)
    return status is not None and os.path.samestat(status, os.fstat(lock))


def remove(name: str, parent: int, directory: int) -> None:
    """Remove an open workspace and all in it; OSError where it stays.

    The lock last, so that until then it is known as one.
    """
    if status_in(directory, BUILT) is not None:
        _remove_directory(BUILT, directory, _DEEPEST)
    os.unlink(LOCK, dir_fd=directory)
    status = status_in(parent, name)
    if status is not None and os.path.samestat(status, os.fstat(directory)):
        os.rmdir(name, dir_fd=parent)


def _remove_directory(name: str, parent: int, levels: int) -> None:
    """Remove a directory, whatever modes it and those in it have.

    OSError if it is a link, if something is mounted on it, or if it has more levels than that.
    """
    if levels == 0:
        raise OSError(errno.ELOOP, "directories nest too deeply")
    if _removed(name, parent):
        return
    with opened(name, dir_fd=parent) as directory:
        mode = os.fstat(directory).st_mode
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            os.fchmod(directory, stat.S_IRWXU)
        for inner in os.listdir(directory):
            try:
                _remove_directory(inner, directory, levels - 1)
            except NotADirectoryError:
                os.unlink(inner, dir_fd=directory)
    os.rmdir(name, dir_fd=parent)


def _removed(name: str, parent: int) -> bool:
    """Remove an empty directory; False for one that is not, which may then be looked into.

    OSError for what is no directory and, before anything in it was touched, for a mount point.
    """
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True
