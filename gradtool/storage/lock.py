"""Locks that end with the process that holds them, however it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from typing import Final

HELD_FILE: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
"""How to open a file to lock it: for writing, or network file systems lock on one host only."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_PATIENCE_S: Final = 1.0
_PAUSE_S: Final = 0.005
"""How long, and how often, others are given way who are making or clearing a workspace."""

_UNLOCKABLE: Final = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Lock:
    """The lock of what is at `path`, held from `acquire` to `release` or the process's end."""

    def __init__(self, path: str, flags: int = HELD_FILE) -> None:
        self._path = path
        self._flags = flags
        self._descriptor = -1

    def acquire(self, *, required: bool) -> bool:
        """Take it without waiting; False where others have it, or it has gone meanwhile.

        Where the file system knows no locks, it is taken unless one is `required`: nobody could
        tell a leftover from what somebody is working in. OSError where `path` cannot be opened.
        """
        self._descriptor = os.open(self._path, self._flags, 0o600)
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            taken = self._lock() or not required
            # Before it was locked, somebody may have taken it for a leftover.
            if taken and os.path.samestat(os.fstat(self._descriptor), os.stat(self._path)):
                return True
        self.release()
        return False

    def release(self) -> None:
        """Give it back, if it is held."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def _lock(self) -> bool:
        """False where the file system knows no locks."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _UNLOCKABLE:
                raise
            return False
        return True


@contextlib.contextmanager
def alone_in(directory: str) -> Iterator[None]:
    """Have no other gradtool of this host look while a workspace is made or cleared.

    As far as that is possible: whoever holds the directory's lock for long is not waited for.
    """
    lock = Lock(directory, _DIRECTORY)
    deadline = time.monotonic() + _PATIENCE_S
    try:
        with contextlib.suppress(OSError):
            while not lock.acquire(required=False) and time.monotonic() < deadline:
                time.sleep(_PAUSE_S)
        yield
    finally:
        lock.release()
