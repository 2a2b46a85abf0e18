"""Workspaces left behind by gradtools that were killed: recognised and cleared, and nothing else.

Anyone who may write in a directory may create there what looks like a leftover, change it at any
moment, and wait for somebody with more rights to clear it. So every step is taken in an open
directory, no link is followed, and whatever gradtool would not have made is left alone.
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
from gradtool.storage.lock import LOCK_FLAGS, acquire

LOCK: Final = "lock"
BUILT: Final = "built"
"""The entries of a workspace: the file that is locked, and the directory to build in."""

_NAME: Final = re.compile(r"\.gradtool-[0-9a-f]{16}\.tmp")
_MOST_NAMES: Final = 10_000
_MOST_LOOKS: Final = 10
_DEEPEST: Final = 100


def is_workspace(name: str) -> bool:
    """Whether `name` is the name of a workspace, of a living process or of a dead one."""
    return _NAME.fullmatch(name) is not None


def workspace_names(target: str) -> Iterator[str]:
    """The names that the workspace of a target may have, in the order in which they are tried.

    Every process takes the first name that nothing foreign has, so that two processes with the
    same target meet there, and entries that somebody plants at some of the names stop nobody.
    """
    import hashlib  # noqa: PLC0415 - which complains on stderr where memory is short

    for attempt in range(_MOST_NAMES):
        # Hashed, because a name may be as long as names can be; and none has a slash.
        key = os.fsencode(target) + (b"/%d" % attempt if attempt else b"")
        yield f".gradtool-{hashlib.blake2b(key, digest_size=8).hexdigest()}.tmp"


class NameState(Enum):
    """What has the name of a workspace once a leftover of that name is cleared."""

    FREE = 1
    BUSY = 2
    FOREIGN = 3


def clear_all(parent: int) -> None:
    """Clear the leftovers in an open directory, if it may be listed."""
    with contextlib.suppress(OSError):
        for name in filter(is_workspace, os.listdir(parent)):
            clear(name, parent)


def clear(name: str, parent: int) -> NameState:
    """Remove the entry `name` of the open directory `parent` if it is a leftover of this user's.

    BUSY is a workspace in use, or one that may be: on a file system without locks nobody can tell.
    FOREIGN is anything that no gradtool of this user has made, or that cannot be removed.
    """
    for _ in range(_MOST_LOOKS):
        try:
            with opened(name, dir_fd=parent) as directory:
                return _clear(name, parent, directory)
        except FileNotFoundError:  # somebody else has cleared it, or is about to
            if status_in(parent, name) is None:
                return NameState.FREE
        except OSError:
            break
    return NameState.FOREIGN


def _clear(name: str, parent: int, directory: int) -> NameState:
    if os.fstat(directory).st_uid != os.geteuid():
        return NameState.FOREIGN
    if _remove_empty(name, parent):  # killed before there was a file to lock
        return NameState.FREE
    if not set(os.listdir(directory)) <= {LOCK, BUILT}:
        return NameState.FOREIGN
    lock = os.open(LOCK, LOCK_FLAGS, dir_fd=directory)
    try:
        if not _is_own_lock(os.fstat(lock)):
            return NameState.FOREIGN
        if not acquire(lock, required=True):
            return NameState.BUSY
        if not is_lock_of(lock, directory):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), LOCK)
        remove(name, parent, directory)
    finally:
        os.close(lock)
    return NameState.FREE


def _is_own_lock(status: os.stat_result) -> bool:
    """Whether a file is a lock that gradtool makes: empty, of this user, with one name only."""
    is_empty_file = stat.S_ISREG(status.st_mode) and status.st_size == 0
    return is_empty_file and status.st_nlink <= 1 and status.st_uid == os.geteuid()


def is_lock_of(lock: int, directory: int) -> bool:
    """Whether an open file is still the lock of an open workspace."""
    status = status_in(directory, LOCK)
    return status is not None and os.path.samestat(status, os.fstat(lock))


def remove(name: str, parent: int, directory: int) -> None:
    """Remove an open workspace and all in it; OSError where that fails.

    The lock goes last, so that the workspace is recognised until then.
    """
    if status_in(directory, BUILT) is not None:
        _remove_directory(BUILT, directory, _DEEPEST)
    os.unlink(LOCK, dir_fd=directory)
    status = status_in(parent, name)
    if status is not None and os.path.samestat(status, os.fstat(directory)):
        os.rmdir(name, dir_fd=parent)


def _remove_directory(name: str, parent: int, levels: int) -> None:
    """Remove a directory and all in it, whatever permissions directories have.

    OSError if it is a link, if something is mounted on it, or if it nests deeper than `levels`.
    """
    if levels == 0:
        raise OSError(errno.ELOOP, "directories nest too deeply")
    if _remove_empty(name, parent):
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


def _remove_empty(name: str, parent: int) -> bool:
    """Remove an empty directory; False for one with entries, which may then be removed.

    OSError for anything but a directory and, before anything in it is touched, for a mount point.
    """
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True
