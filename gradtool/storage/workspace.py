"""Files and directories that appear whole or not at all.

A target is built in a workspace, a directory beside it that has a locked file, so that one rename
puts it in place. A process that is killed leaves a workspace that is not locked any more, which
the next run clears. Two processes that write the same target meet at the lock.

All is done in open directories: that of the target, the workspace, and the one in it to build in.
Whatever others do to the paths meanwhile, nothing is written, changed or removed anywhere else.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Collection, Iterator
from types import TracebackType
from typing import Final, Self

from gradtool.errors import FileAccessError, InputError, TargetBusyError, UsageError
from gradtool.storage.directories import is_at, open_directory, open_parent, status_in, sync_names
from gradtool.storage.files import require_space, traits_in
from gradtool.storage.leftovers import (
    BUILT,
    LOCK,
    NameState,
    clear,
    clear_all,
    is_lock_of,
    remove,
    workspace_names,
)
from gradtool.storage.links import target_path
from gradtool.storage.lock import LOCK_FLAGS, acquire, alone_in
from gradtool.storage.sink import Sink, create_sink

_LOG: Final = logging.getLogger("gradtool")

_open: list[Workspace] = []
"""The workspaces that this process has open."""


def abandon_all() -> None:
    """Remove all workspaces of this process, which has to end right after."""
    for workspace in _open.copy():
        workspace.abandon()


class Workspace:
    """A private directory to build a file or directory in, beside its real path `target`.

    A context manager, which removes the directory and everything in it that was not put in place.
    `parent` is the directory of `target`, if it is open already; `shown` is the target in errors.
    Entering raises TargetBusyError where another process builds the same target, and
    FileAccessError where the directory of the target cannot be written.
    """

    def __init__(self, target: str, shown: str, parent: int | None = None) -> None:
        self._parent_path, self._target = os.path.split(target)
        self._shown = shown
        self._given_parent = parent
        self._name = next(workspace_names(self._target))
        self._descriptors: list[int] = []
        self._made: dict[str, int] = {}
        self._parent = self._root = self._built = self._lock = -1

    @property
    def path(self) -> str:
        """Its path, for errors and for reading; before entering, the first that it will try."""
        return os.path.join(self._parent_path, self._name)

    @property
    def directory(self) -> int:
        """The open directory in which everything is built, under any name."""
        return self._built

    @contextlib.contextmanager
    def readable(self, name: str) -> Iterator[str]:
        """The path at which what was built under `name` can be read.

        FileAccessError if reading fails because others have moved the workspace.
        """
        try:
            yield os.path.join(self.path, BUILT, name)
        except InputError:
            self._refuse_moved()
            raise

    def __enter__(self) -> Self:
        _open.append(self)
        try:
            with writing(self._shown):
                if self._given_parent is None:
                    self._parent = self._held(open_parent(self._parent_path or os.curdir))
                else:
                    self._parent = self._held(os.dup(self._given_parent))
                self._refuse_other_parent()
                with alone_in(self._parent):
                    clear_all(self._parent)
                    self._claim()
                os.mkdir(BUILT, dir_fd=self._root)
                self._built = self._held(open_directory(BUILT, dir_fd=self._root))
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
            with contextlib.suppress(OSError):
                remove(self._name, self._parent, self._root)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Remove the workspace, unless another process has it; at any moment, even in a handler.

        An interrupt may come before this object knows that it holds the lock.
        """
        if self._lock >= 0:
            lock, self._lock = self._lock, -1
            os.close(lock)
        if self._parent >= 0:
            clear(self._name, self._parent)
        _open.remove(self)
        while self._descriptors:
            os.close(self._descriptors.pop())

    def require_space(self, sizes: Collection[int]) -> None:
        """FileAccessError unless the disk has space for files of these sizes."""
        require_space(self._shown, self._parent, sizes)

    def make_directory(self, name: str) -> int:
        """Make a directory to build in, which stays open as long as the workspace."""
        os.mkdir(name, dir_fd=self._built)
        self._made[name] = self._held(open_directory(name, dir_fd=self._built))
        return self._made[name]

    def finish(self, sink: Sink) -> None:
        """Give a new file owner, permissions and attributes of the one it replaces, and sync it."""
        # Of the target itself: a link that was put there meanwhile is not followed.
        replaced = traits_in(self._parent, self._target)
        if replaced is not None:
            replaced.give(sink.descriptor)
        sink.sync()

    def commit(self, name: str, *, overwrite: bool) -> tuple[str, ...]:
        """Move what was built under `name`, and synced, to the target.

        Returns notes for the user: once the target is in place, nothing fails any more.

        Raises:
            UsageError: the target exists by now and may not be overwritten.
            FileAccessError: the directory of the target was replaced meanwhile.
        """
        with writing(self._shown):
            self._refuse_other_parent()
            if not overwrite and status_in(self._parent, self._target) is not None:
                raise exists_error(self._shown)
            with self._movable(name):
                os.rename(name, self._target, src_dir_fd=self._built, dst_dir_fd=self._parent)
        try:
            sync_names(self._parent)
        except OSError as error:
            unsynced = f"its directory could not be synced: {error.strerror or error}"
            lost = "it may be lost if the machine stops now"
            return (f"{self._shown} is written; {unsynced}: {lost}",)
        return ()

    def _held(self, descriptor: int) -> int:
        """`descriptor`, which is closed with the workspace."""
        self._descriptors.append(descriptor)
        return descriptor

    def _refuse_other_parent(self) -> None:
        if not is_at(self._parent_path or os.curdir, self._parent):
            raise self._replaced("its directory")

    def _refuse_moved(self) -> None:
        self._refuse_other_parent()
        if not is_at(self.path, self._root):
            raise self._replaced(self.path)

    def _replaced(self, what: str) -> FileAccessError:
        problem = f"cannot be written: {what} was replaced meanwhile"
        return FileAccessError(self._shown, problem, hint="run again")

    def _claim(self) -> None:
        """Make the directory, under the first name that nothing foreign has, and lock it."""
        for name in workspace_names(self._target):
            self._name = name  # first: `abandon`, in an interrupt, has to know it
            if self._try_claim():
                return
        problem = f"cannot be written: {self.path} is in the way, and so are others like it"
        raise FileAccessError(self._shown, problem, hint="remove them")

    def _try_claim(self) -> bool:
        """Claim the name; False where something foreign has it."""
        while True:
            try:
                os.mkdir(self._name, 0o700, dir_fd=self._parent)
            except FileExistsError:
                state = clear(self._name, self._parent)
                if state is NameState.BUSY:
                    raise self._busy() from None
                if state is NameState.FOREIGN:
                    return False
            else:
                with contextlib.suppress(FileNotFoundError):  # taken for a leftover: try again
                    if self._try_lock():
                        return True

    def _try_lock(self) -> bool:
        """Lock the new directory; False where another process takes it for a leftover meanwhile."""
        self._root = self._held(open_directory(self._name, dir_fd=self._parent))
        flags = LOCK_FLAGS | os.O_CREAT | os.O_EXCL
        self._lock = os.open(LOCK, flags, 0o600, dir_fd=self._root)
        # Some network file systems show another user's number, but the same for both.
        if os.fstat(self._lock).st_uid != os.fstat(self._root).st_uid:
            os.unlink(LOCK, dir_fd=self._root)
            raise self._replaced(self.path)
        if acquire(self._lock, required=False) and is_lock_of(self._lock, self._root):
            return True
        os.close(self._lock)
        self._lock = -1
        return False

    def _busy(self) -> TargetBusyError:
        return TargetBusyError(
            self._shown,
            "another gradtool is writing it",
            hint=f"wait for it to end; if none is running, remove {self.path}",
        )

    @contextlib.contextmanager
    def _movable(self, name: str) -> Iterator[None]:
        """Make a built directory writable while it is moved, as a change of parent needs that."""
        made = self._made.get(name)
        mode = stat.S_IRWXU if made is None else stat.S_IMODE(os.fstat(made).st_mode)
        if made is None or mode & stat.S_IWUSR:
            yield
            return
        os.fchmod(made, mode | stat.S_IWUSR)
        yield
        with contextlib.suppress(OSError):  # as was allowed a moment ago
            os.fchmod(made, mode)


def write_file(shown: str, data: bytes) -> None:
    """Write `data` to the file `shown`, which keeps its content if anything goes wrong.

    A symbolic link stays one, and its target is replaced. Notes on a file that was written go to
    the log `gradtool`.
    """
    target = target_path(shown)
    with Workspace(target, shown) as workspace, writing(shown):
        with create_sink("data", dir_fd=workspace.directory) as sink:
            sink.write(0, memoryview(data))
            workspace.finish(sink)
        warn(workspace.commit("data", overwrite=True))


def warn(notes: tuple[str, ...]) -> None:
    """Log notes of a caller that cannot return them."""
    for note in notes:
        _LOG.warning("%s", note)


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Turn an OSError that is raised inside into a FileAccessError about `path`."""
    try:
        yield
    except OSError as error:
        problem = f"cannot be written: {error.strerror or error}"
        raise FileAccessError(path, problem) from error


def exists_error(shown: str) -> UsageError:
    """The error for a target that exists."""
    return UsageError(f"{shown} exists", hint="`force=True` overwrites it")
