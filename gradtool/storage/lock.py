"""Locks that end with the process that holds them, however it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from typing import Final

LOCK_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""How to open a file to lock it: for writing, or network file systems lock on one host only."""

_PATIENCE_S: Final = 1.0
_PAUSE_S: Final = 0.005
"""How long to wait for another process that makes or clears a workspace, and how often to look."""

_UNLOCKABLE: Final = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def acquire(descriptor: int, *, required: bool) -> bool:
    """Lock an open file or directory, without waiting; False where another process holds it.

    A file system without locks gives False if a lock is `required`, as nobody could tell a leftover
    from a workspace in use; else True. The lock is held until the descriptor is closed.
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
    """Lock an open directory against other gradtools while a workspace is made or cleared in it.

    As far as possible: a lock that another process holds for long is not waited for, and a
    directory that may not be read has none.
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
