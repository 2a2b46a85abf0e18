"""Where results go, checked before any work is done and again when they are put in place."""

from __future__ import annotations

import os
from dataclasses import dataclass

from gradtool.errors import FileAccessError, UsageError
from gradtool.storage.workspace import exists_error


@dataclass(frozen=True, slots=True)
class Target:
    """Where a clipped checkpoint goes.

    Attributes:
        shown: the path as the user gave it.
        path: its real path, so that a symbolic link stays one and what it names is replaced.
        source: the real path of the file, or directory of files, that is clipped.
        overwrite: whether what is at `path` may be replaced.
    """

    shown: str
    path: str
    source: str
    overwrite: bool

    @property
    def is_directory(self) -> bool:
        """Whether all files of a directory are written, to a new one."""
        return os.path.isdir(self.source)

    @property
    def replaced(self) -> str | None:
        """The file that is replaced, if there is one."""
        return None if self.is_directory or not os.path.isfile(self.path) else self.path

    def notes(self) -> tuple[str, ...]:
        """What will be lost that the user may not expect."""
        if self.replaced is not None and os.stat(self.replaced).st_nlink > 1:
            return (f"{self.shown} has other names (hard links), which keep the old content",)
        return ()


def target_in_place(path: str, source: str) -> Target:
    """`path` itself, whose file or directory of files is `source`.

    UsageError for more than one file.
    """
    if os.path.isdir(source):
        raise UsageError(
            f"{path}: only a single file is clipped in place", hint="give a new directory with -o"
        )
    real = os.path.realpath(path)
    _refuse_unwritable(path, os.path.dirname(real))
    return Target(path, real, real, overwrite=True)


def target_at(path: str, source: str, out: str, *, force: bool) -> Target:
    """`out`, for what is clipped of `path`, whose file or directory of files is `source`.

    Raises:
        UsageError: it is there and may not be replaced, or is `source` or in it.
        FileAccessError: its directory is missing or cannot be written.
    """
    source, real = os.path.realpath(source), os.path.realpath(out)
    directory = os.path.isdir(source)
    if not os.path.basename(out.rstrip(os.sep)) or (out.endswith(os.sep) and not directory):
        hint = None if directory else f"{path} is a file, and so is what it becomes"
        raise UsageError(f"{out!r} names no {'directory' if directory else 'file'}", hint=hint)
    if os.path.exists(real):
        _refuse_taken(path, source, out, real)
    if os.path.lexists(real) and not force:
        raise exists_error(out)
    if directory and os.path.commonpath([source, real]) == source:
        raise UsageError(f"{out} lies inside {path}, which is to be clipped")
    _refuse_unwritable(out, os.path.dirname(real))
    return Target(out, real, source, overwrite=force)


def _refuse_taken(path: str, source: str, out: str, real: str) -> None:
    """Raise UsageError for an `out` that is there and stays even if asked to be replaced."""
    directory = os.path.isdir(source)
    if os.path.exists(source) and os.path.samefile(real, source):
        hint = "give a new directory" if directory else "--in-place replaces it"
        raise UsageError(f"{out} is {path} itself", hint=hint)
    if directory and (not os.path.isdir(real) or os.listdir(real)):
        raise UsageError(
            f"{out} exists and is no empty directory", hint="a directory is never replaced"
        )
    if not directory and not os.path.isfile(real):
        kind = "a directory" if os.path.isdir(real) else "no regular file"
        raise UsageError(f"{out} is {kind}")


def _refuse_unwritable(shown: str, parent: str) -> None:
    if not os.path.isdir(parent):
        raise FileAccessError(shown, "cannot be written: no such directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise FileAccessError(shown, "cannot be written: its directory is read-only")
