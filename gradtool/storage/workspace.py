"""Files and directories that appear whole or not at all.

What is to appear at a target is built in a workspace: a directory beside it with a locked file
in it, so that one rename puts it in place. Whoever is killed on the way leaves a workspace that
is not locked any more, and the next run clears it. Two processes that write one target meet at
its lock.

All is done in directories that are open: that of the target, the workspace, and the one in it
where things are built. Whatever others make of the paths meanwhile, nothing is written, changed
or removed anywhere else.
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
from gradtool.storage.files import require_room, traits_in
from gradtool.storage.leftovers import (
    BUILT,
    LOCK,
    Found,
    clear,
    clear_all,
    is_lock_of,
    remove,
    workspace_names,
)
from gradtool.storage.links import target_path
from gradtool.storage.lock import HELD_FILE, acquire, alone_in
from gradtool.storage.sink import Sink, create_sink

_LOG: Final = logging.getLogger("gradtool")

_open: list[Workspace] = []
"""Those of this process."""


def abandon_all() -> None:
    """Remove all workspaces of this process, which has to end right after."""
    for workspace in _open.copy():
        workspace.abandon()


class Workspace:
    """A private directory beside `target`, the real path of a file or directory to be.

    A context manager: it is gone when left, with everything in it that was not put in place.
    `parent` is the directory of `target`, if it is open already. Entering raises TargetBusyError
    where another process builds the same target, and FileAccessError where the directory cannot
    be written.
    """

    def __init__(self, target: str, shown: str, parent: int | None = None) -> None:
        self._parent_path, self._target = os.path.split(target)
        self._shown = shown
        self._given = parent
        self._name = next(workspace_names(self._target))
        self._descriptors: list[int] = []
        self._made: dict[str, int] = {}
        self._parent = self._itself = self._built = self._lock = -1

    @property
    def path(self) -> str:
        """Where it is or, unless something foreign is there, will be: for words and for reading."""
        return os.path.join(self._parent_path, self._name)

    @property
    def directory(self) -> int:
        """The open directory in which everything is built, under any name."""
        return self._built

    @contextlib.contextmanager
    def readable(self, name: str) -> Iterator[str]:
        """The path at which what is built under a name is read.

        What cannot be read because others have moved the workspace is a FileAccessError that
        says so.
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
                if self._given is None:
                    self._parent = self._held(open_parent(self._parent_path or os.curdir))
                else:
                    self._parent = self._held(os.dup(self._given))
                self._refuse_other_parent()
                with alone_in(self._parent):
                    clear_all(self._parent)
                    self._claim()
                os.mkdir(BUILT, dir_fd=self._itself)
                self._built = self._held(open_directory(BUILT, dir_fd=self._itself))
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
                remove(self._name, self._parent, self._itself)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Remove what is there, unless it is another process's; at any moment, even in a handler.

        Whoever interrupted the work may have done so before the lock was known to be held.
        """
        if self._lock >= 0:
            lock, self._lock = self._lock, -1
            os.close(lock)
        if self._parent >= 0:
            clear(self._name, self._parent)
        _open.remove(self)
        while self._descriptors:
            os.close(self._descriptors.pop())

    def require_room(self, sizes: Collection[int]) -> None:
        """FileAccessError unless there is room for files of those sizes."""
        require_room(self._shown, self._parent, sizes)

    def make_directory(self, name: str) -> int:
        """A new directory in here, open for as long as the workspace is."""
        os.mkdir(name, dir_fd=self._built)
        self._made[name] = self._held(open_directory(name, dir_fd=self._built))
        return self._made[name]

    def finish(self, sink: Sink) -> None:
        """Give a new file all but the content of the one that it replaces; have it on disk."""
        # Of what is there itself, and not of what a link names that was put there meanwhile.
        replaced = traits_in(self._parent, self._target)
        if replaced is not None:
            replaced.give(sink.descriptor)
        sink.sync()

    def commit(self, name: str, *, overwrite: bool) -> tuple[str, ...]:
        """Put what was built under a name, synced, in the place of the target.

        Returns what there is to be said of it: once it is there, nothing fails any more.

        Raises:
            UsageError: something is there by now and may not be overwritten.
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
        self._descriptors.append(descriptor)
        return descriptor

    def _refuse_other_parent(self) -> None:
        if not is_at(self._parent_path or os.curdir, self._parent):
            raise self._replaced("its directory")

    def _refuse_moved(self) -> None:
        self._refuse_other_parent()
        if not is_at(self.path, self._itself):
            raise self._replaced(self.path)

    def _replaced(self, what: str) -> FileAccessError:
        problem = f"cannot be written: {what} was replaced meanwhile"
        return FileAccessError(self._shown, problem, hint="run again")

    def _claim(self) -> None:
        """Make the directory at the first name where nothing foreign is, and lock a file in it."""
        for name in workspace_names(self._target):
            self._name = name  # first: whoever interrupts has to know it
            if self._is_claimed():
                return
        problem = f"cannot be written: {self.path} is in the way, and so are others like it"
        raise FileAccessError(self._shown, problem, hint="remove them")

    def _is_claimed(self) -> bool:
        """Claim the name; False where something foreign is there."""
        while True:
            try:
                os.mkdir(self._name, 0o700, dir_fd=self._parent)
            except FileExistsError:
                found = clear(self._name, self._parent)
                if found is Found.BUSY:
                    raise self._busy() from None
                if found is Found.FOREIGN:
                    return False
            else:
                with contextlib.suppress(FileNotFoundError):  # taken for a leftover: once more
                    if self._is_locked():
                        return True

    def _is_locked(self) -> bool:
        """Lock what was just made; False where somebody takes it for a leftover at that moment."""
        self._itself = self._held(open_directory(self._name, dir_fd=self._parent))
        flags = HELD_FILE | os.O_CREAT | os.O_EXCL
        self._lock = os.open(LOCK, flags, 0o600, dir_fd=self._itself)
        # Numbers are not this process's own on some network file systems, and yet the same.
        if os.fstat(self._lock).st_uid != os.fstat(self._itself).st_uid:
            os.unlink(LOCK, dir_fd=self._itself)
            raise self._replaced(self.path)
        if acquire(self._lock, required=False) and is_lock_of(self._lock, self._itself):
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
        """A directory that may not be written may not change its parent either: now it may."""
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
    """Have the file `shown` hold `data` or, whatever goes wrong, what it held before.

    A symbolic link stays one, and what it names is replaced. What there is to be said of a file
    that is written goes to the log `gradtool`.
    """
    target = target_path(shown)
    with Workspace(target, shown) as workspace, writing(shown):
        with create_sink("data", dir_fd=workspace.directory) as sink:
            sink.write(0, memoryview(data))
            workspace.finish(sink)
        warn(workspace.commit("data", overwrite=True))


def warn(notes: tuple[str, ...]) -> None:
    """Log what a caller has nowhere to return."""
    for note in notes:
        _LOG.warning("%s", note)


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
    return UsageError(f"{shown} exists", hint="`force=True` overwrites it")
