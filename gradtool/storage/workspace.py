"""Files and directories that appear whole or not at all.

What is to appear at a target is built in a workspace: a locked directory beside it, so that one
rename puts it in place. Whoever is killed on the way leaves a workspace that is not locked any
more, and the next run clears it. Two processes that write one target meet at its lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
from types import TracebackType
from typing import Final, Self

from gradtool.errors import FileAccessError, TargetBusyError, UsageError

_PREFIX: Final = ".gradtool-"
_SUFFIX: Final = ".tmp"
_UNLOCKABLE: Final = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def is_workspace(name: str) -> bool:
    """Whether a directory entry so named is a workspace, of this process or of one that died."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


class Workspace:
    """A private directory beside `target`, the real path of a file or directory to be.

    A context manager: it is gone when left, with everything in it that was not put in place.
    Entering raises TargetBusyError where another process builds the same target, and
    FileAccessError where the directory of `target` cannot be written.
    """

    def __init__(self, target: str, shown: str) -> None:
        self.target = target
        self._shown = shown
        self._parent = os.path.dirname(target)
        # Hashed, because a name may be as long as names can be.
        digest = hashlib.blake2b(os.fsencode(os.path.basename(target)), digest_size=8).hexdigest()
        self.path = os.path.join(self._parent, f"{_PREFIX}{digest}{_SUFFIX}")
        self._lock = -1

    def __enter__(self) -> Self:
        with writing(self._shown):
            _clear_leftovers(self._parent)
            self._lock = self._claim()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def commit(self, built: str, *, overwrite: bool) -> None:
        """Put `built`, synced and in this workspace, in the place of the target.

        UsageError where something is there by now and may not be overwritten.
        """
        if os.path.lexists(self.target) and not overwrite:
            raise exists(self._shown)
        with writing(self._shown):
            os.rename(built, self.target)
            sync(self._parent)

    def _claim(self) -> int:
        """Make the directory and lock it; the lock's descriptor."""
        while True:
            try:
                os.mkdir(self.path, 0o700)
            except FileExistsError:
                if not _cleared(self.path):
                    raise TargetBusyError(
                        self._shown,
                        "another gradtool is writing it",
                        hint=f"wait for it to end; if none is running, remove {self.path}",
                    ) from None
                continue
            lock = _locked(self.path, required=False)
            if lock is not None:
                return lock


def _clear_leftovers(directory: str) -> None:
    # Not ours to insist on: they may be another user's, or the directory not to be listed.
    with contextlib.suppress(OSError):
        for name in filter(is_workspace, os.listdir(directory)):
            with contextlib.suppress(OSError):
                _cleared(os.path.join(directory, name))


def _cleared(path: str) -> bool:
    """Remove a workspace unless somebody works in it; whether it is gone."""
    lock = _locked(path, required=True)
    if lock is not None:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)
    return not os.path.lexists(path)


def _locked(path: str, *, required: bool) -> int | None:
    """A descriptor that holds the lock of the directory at `path`; None where others do.

    Where the file system knows no locks it holds none, and None is for who requires one: nobody
    could tell a leftover from what somebody is working in.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        serves = _lock(descriptor) or not required
        # Before it was locked, somebody may have taken it for a leftover.
        if serves and os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _lock(descriptor: int) -> bool:
    """Lock without waiting; False where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _UNLOCKABLE:
            raise
        return False
    return True


def write_file(shown: str, data: bytes) -> None:
    """Have the file `shown` hold `data` or, whatever goes wrong, what it held before.

    A symbolic link stays one, and what it names is replaced.
    """
    target = os.path.realpath(shown)
    with Workspace(target, shown) as workspace, writing(shown):
        built = os.path.join(workspace.path, "data")
        with open(built, "xb") as file:
            file.write(data)
        if os.path.exists(target):
            inherit(built, target)
        sync(built)
        workspace.commit(built, overwrite=True)


class writing(contextlib.AbstractContextManager[None]):  # noqa: N801 - reads as a phrase
    """What the system refuses inside is a FileAccessError about `path`."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, OSError):
            problem = f"cannot be written: {error.strerror or error}"
            raise FileAccessError(self._path, problem) from error


def exists(shown: str) -> UsageError:
    """The error for a target that is there already."""
    return UsageError(f"{shown} exists", hint="--force overwrites it")


def create(path: str, nbytes: int) -> None:
    """Make a file of that size with its space, so that a full disk shows before any work.

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


def inherit(path: str, old: str) -> None:
    """Give `path` the owner, extended attributes and permissions of `old`, as far as allowed."""
    status = os.stat(old)
    mode = stat.S_IMODE(status.st_mode)
    try:
        os.chown(path, status.st_uid, status.st_gid)
    except OSError:
        # Not to run with the rights of an owner or group that it no longer has.
        mode &= ~(stat.S_ISUID | stat.S_ISGID)
    for name in _attributes(old):
        # Some are the system's own to give.
        with contextlib.suppress(OSError):
            os.setxattr(path, name, os.getxattr(old, name))
    os.chmod(path, mode)


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
