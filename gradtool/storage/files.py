"""Files as the disk has them: space, owners, permissions, and whether it has them at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat


def create(path: str, nbytes: int) -> None:
    """Make a file of that size with its space, so that a full disk shows before any work in it.

    Writers in parallel are several times faster on space that is there than on a growing file.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        _allocate(descriptor, nbytes)
    finally:
        os.close(descriptor)


def _allocate(descriptor: int, nbytes: int) -> None:
    if hasattr(os, "posix_fallocate") and nbytes:
        try:
            os.posix_fallocate(descriptor, 0, nbytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
        else:
            return
    os.ftruncate(descriptor, nbytes)


def inherit_and_sync(path: str, old: str) -> None:
    """Make the file or directory `path` what `old` is in all but content, and have it on disk."""
    # Opened first: afterwards we may not be allowed to.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _inherit(path, old)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _inherit(path: str, old: str) -> None:
    """Give `path` the owner, extended attributes and permissions of `old`, as far as allowed."""
    status = os.stat(old)
    mode = stat.S_IMODE(status.st_mode)
    try:
        os.chown(path, status.st_uid, status.st_gid)
    except OSError:
        # Not to run with the rights of an owner or group that it no longer has.
        mode &= ~(stat.S_ISUID | stat.S_ISGID)
        with contextlib.suppress(OSError):
            os.chown(path, -1, status.st_gid)
    _inherit_attributes(path, old)
    os.chmod(path, mode)


def _inherit_attributes(path: str, old: str) -> None:
    kept = _attributes(old)
    for name in kept + _attributes(path):
        # Some are the system's own to give, and some it gives to any new file.
        with contextlib.suppress(OSError):
            if name in kept:
                os.setxattr(path, name, os.getxattr(old, name))
            else:
                os.removexattr(path, name)


def _attributes(path: str) -> list[str]:
    """Names of extended attributes; Python knows them on Linux only."""
    try:
        return os.listxattr(path) if hasattr(os, "listxattr") else []
    except OSError:
        return []


def sync(path: str) -> None:
    """Have the disk hold what was written to a file, or the names in a directory."""
    descriptor = os.open(path or ".", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
