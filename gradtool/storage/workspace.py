"""Files and directories that appear whole or not at all.

What is to appear at a target is built in a workspace: a locked directory beside it, so that one
rename puts it in place. Whoever is killed on the way leaves a workspace that is not locked any
more, and the next run clears it. Two processes that write one target meet at its lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from gradtool.errors import FileAccessError, TargetBusyError, UsageError
from gradtool.storage.files import succeed, sync
from gradtool.storage.lock import Lock, alone_in

_PREFIX: Final = ".gradtool-"
_SUFFIX: Final = ".tmp"


_open: list[Workspace] = []
"""Those of this process."""


def abandon_all() -> None:
    """Remove all workspaces of this process, which has to end right after."""
    for workspace in _open.copy():
        workspace.abandon()


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
        self._lock = Lock(self.path)

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
        with contextlib.suppress(OSError):
            _cleared(self.path)
        _open.remove(self)

    def commit(self, built: str, *, overwrite: bool) -> None:
        """Put `built`, synced and in this workspace, in the place of the target.

        UsageError where something is there by now and may not be overwritten.
        """
        if os.path.lexists(self.target) and not overwrite:
            raise exists(self._shown)
        with writing(self._shown):
            mode = stat.S_IMODE(os.stat(built).st_mode)
            # A directory that may not be written may not change its parent either.
            movable = mode | stat.S_IWUSR if os.path.isdir(built) else mode
            if movable != mode:
                os.chmod(built, movable)
            os.rename(built, self.target)
            if movable != mode:
                os.chmod(self.target, mode)
            sync(self._parent)

    def _claim(self) -> None:
        """Make the directory and lock it."""
        while True:
            try:
                os.mkdir(self.path, 0o700)
            except FileExistsError:
                self._make_way()
                continue
            if self._lock.acquire(required=False):
                return

    def _make_way(self) -> None:
        """Remove what is at the workspace's path, unless it is somebody's."""
        if os.path.islink(self.path) or not os.path.isdir(self.path):
            if not os.path.lexists(self.path):
                return
            problem = f"cannot be written: {self.path} is in the way"
            raise FileAccessError(self._shown, problem, hint="remove it")
        if not _cleared(self.path):
            raise TargetBusyError(
                self._shown,
                "another gradtool is writing it",
                hint=f"wait for it to end; if none is running, remove {self.path}",
            )


def _clear_leftovers(directory: str) -> None:
    # Not ours to insist on: they may be another user's, or the directory not to be listed.
    with contextlib.suppress(OSError):
        for name in filter(is_workspace, os.listdir(directory)):
            path = os.path.join(directory, name)
            with contextlib.suppress(OSError):
                _cleared(path)


def _cleared(path: str) -> bool:
    """Remove a workspace unless somebody works in it; whether it is gone."""
    lock = Lock(path)
    try:
        if lock.acquire(required=True):
            _remove(path)
    finally:
        lock.release()
    return not os.path.lexists(path)


def _remove(path: str) -> None:
    """Remove a directory and all in it, even directories that may not be written."""
    shutil.rmtree(path, ignore_errors=True)
    for directory, _, _ in os.walk(path):
        with contextlib.suppress(OSError):
            os.chmod(directory, stat.S_IRWXU)
    shutil.rmtree(path, ignore_errors=True)


def write_file(shown: str, data: bytes) -> None:
    """Have the file `shown` hold `data` or, whatever goes wrong, what it held before.

    A symbolic link stays one, and what it names is replaced.
    """
    target = os.path.realpath(shown)
    with Workspace(target, shown) as workspace, writing(shown):
        built = os.path.join(workspace.path, "data")
        with open(built, "xb") as file:
            file.write(data)
        sync(built)
        if os.path.exists(target):
            succeed(built, target)
        workspace.commit(built, overwrite=True)


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """What the system refuses inside is a FileAccessError about `path`."""
    try:
        yield
    except OSError as error:
        problem = f"cannot be written: {error.strerror or error}"
        raise FileAccessError(path, problem) from error


def exists(shown: str) -> UsageError:
    """The error for a target that is there already."""
    return UsageError(f"{shown} exists", hint="--force overwrites it")
