"""Files and directories that appear whole or not at all.

What is to appear at a target is built in a workspace: a directory beside it with a locked file
in it, so that one rename puts it in place. Whoever is killed on the way leaves a workspace that
is not locked any more, and the next run clears it. Two processes that write one target meet at
its lock.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from gradtool.errors import FileAccessError, TargetBusyError, UsageError
from gradtool.storage.files import inherit_and_sync, sync
from gradtool.storage.lock import HELD_FILE, Lock, alone_in

_NAME: Final = re.compile(r"\.gradtool-[0-9a-f]{16}\.tmp")
_LOCK: Final = "lock"

_open: list[Workspace] = []
"""Those of this process."""


def abandon_all() -> None:
    """Remove all workspaces of this process, which has to end right after."""
    for workspace in _open.copy():
        workspace.abandon()


def is_workspace(name: str) -> bool:
    """Whether a directory entry so named is a workspace, of this process or of one that died."""
    return _NAME.fullmatch(name) is not None


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
        self.path = os.path.join(self._parent, f".gradtool-{digest}.tmp")
        self._lock = Lock(os.path.join(self.path, _LOCK), HELD_FILE | os.O_CREAT)

    def __enter__(self) -> Self:
        _open.append(self)
        try:
            with writing(self._shown), alone_in(self._parent):
                _clear_leftovers(self._parent)
                self._claim()
        except BaseException:
            self.abandon()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            _remove(self.path)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Remove what is there, unless it is another process's; at any moment, even in a handler.

        Whoever interrupted the work may have done so before the lock was known to be held.
        """
        self._lock.release()
        _cleared(self.path)
        _open.remove(self)

    def place_for(self, name: str) -> str:
        """A path in here for what is called `name` where it is read or will be."""
        inner = os.path.join(self.path, "built")
        os.makedirs(inner, exist_ok=True)
        return os.path.join(inner, name)

    def commit(self, built: str, *, overwrite: bool) -> None:
        """Put `built`, synced and in this workspace, in the place of the target.

        UsageError where something is there by now and may not be overwritten.
        """
        with writing(self._shown):
            # Opened first: once the target is there, nothing may fail any more.
            parent = os.open(self._parent or os.curdir, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if not overwrite and os.path.lexists(self.target):
                    raise exists_error(self._shown)
                _move(built, self.target)
                _sync_names(parent)
            finally:
                os.close(parent)

    def _claim(self) -> None:
        """Make the directory, and in it the file that is locked."""
        while True:
            try:
                os.mkdir(self.path, 0o700)
            except FileExistsError:
                self._make_way()
                continue
            with contextlib.suppress(FileNotFoundError):  # taken for a leftover: once more
                if self._lock.acquire(required=False):
                    return

    def _make_way(self) -> None:
        """Remove what is at the workspace's path, unless it is somebody's."""
        if os.path.lexists(self.path) and not stat.S_ISDIR(os.lstat(self.path).st_mode):
            problem = f"cannot be written: {self.path} is in the way"
            raise FileAccessError(self._shown, problem, hint="remove it")
        if not _cleared(self.path):
            raise TargetBusyError(
                self._shown,
                "another gradtool is writing it",
                hint=f"wait for it to end; if none is running, remove {self.path}",
            )


def _move(built: str, target: str) -> None:
    """Rename; a directory that may not be written may not change its parent either."""
    mode = stat.S_IMODE(os.stat(built).st_mode)
    movable = mode | stat.S_IWUSR if os.path.isdir(built) else mode
    if movable != mode:
        os.chmod(built, movable)
    os.rename(built, target)
    if movable != mode:
        os.chmod(target, mode)


def _sync_names(directory: int) -> None:
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that keeps names by itself
            raise


def _clear_leftovers(directory: str) -> None:
    # The directory may be one that may not be listed.
    with contextlib.suppress(OSError):
        for name in filter(is_workspace, os.listdir(directory)):
            _cleared(os.path.join(directory, name))


def _cleared(path: str) -> bool:
    """Remove a workspace of ours unless somebody works in it; whether it is gone."""
    lock = Lock(os.path.join(path, _LOCK))
    with contextlib.suppress(OSError):
        if os.lstat(path).st_uid == os.geteuid():
            try:
                if lock.acquire(required=True):
                    _remove(path)
            except FileNotFoundError:
                os.rmdir(path)  # killed before the lock was made: it is empty, or not ours
            finally:
                lock.release()
    return not os.path.lexists(path)


def _remove(path: str) -> None:
    """Remove a workspace and all in it: the lock last, so that until then it is known as one."""
    with contextlib.suppress(OSError):
        inner = os.path.join(path, "built")
        if os.path.lexists(inner):
            shutil.rmtree(inner, ignore_errors=True)
        if os.path.lexists(inner):
            _unprotect(inner)
            shutil.rmtree(inner, ignore_errors=True)
        if not os.path.lexists(inner):
            os.unlink(os.path.join(path, _LOCK))
            os.rmdir(path)


def _unprotect(path: str) -> None:
    """Make the directories in a tree such that their owner may empty them."""
    os.chmod(path, stat.S_IRWXU)
    for _, names, _, directory in os.fwalk(path):
        for name in names:
            if stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode):
                os.chmod(name, stat.S_IRWXU, dir_fd=directory)


def write_file(shown: str, data: bytes) -> None:
    """Have the file `shown` hold `data` or, whatever goes wrong, what it held before.

    A symbolic link stays one, and what it names is replaced.
    """
    target = os.path.realpath(shown)
    with Workspace(target, shown) as workspace, writing(shown):
        built = workspace.place_for("data")
        with open(built, "xb") as file:
            file.write(data)
        if os.path.exists(target):
            inherit_and_sync(built, target)
        else:
            sync(built)
        workspace.commit(built, overwrite=True)


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """What the system refuses inside is a FileAccessError about `path`."""
    try:
        yield
    except OSError as error:
        problem = f"cannot be written: {error.strerror or error}"
        raise FileAccessError(path, problem) from error


def exists_error(shown: str) -> UsageError:
    """The error for a target that is there already."""
    return UsageError(f"{shown} exists", hint="--force overwrites it")
