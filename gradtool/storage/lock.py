"""Locks that end with the process that holds them, however it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from typing import Final

HELD_FILE: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""How to open a file to lock it: for writing, or network file systems lock on one host only."""

_PATIENCE_S: Final = 1.0
_PAUSE_S: Final = 0.005
"""How long, and how often, others are given way who are making or clearing a workspace."""

_UNLOCKABLE: Final = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def acquire(descriptor: int, *, required: bool) -> bool:
    """Take the lock of what is open, without waiting; False where others have it.

    Where the file system knows no locks, it is taken unless one is `required`: nobody could
    tell a leftover from what somebody is working in. It is held until the descriptor is closed.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNLOCKABLE:
            raise
        return not required
    return True


@contextlib.contextmanager
def alone_in(directory: int) -> Iterator[None]:
    """Have no other gradtool of this host look while a workspace is made or cleared.

    As far as that is possible: whoever holds the open directory's lock for long is not waited
    for, and one that may not be read has none.
    """
    deadline = time.monotonic() + _PATIENCE_S
    with contextlib.suppress(OSError):
        while not acquire(directory, required=False) and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(directory, fcntl.LOCK_UN)
