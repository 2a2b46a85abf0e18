"""Where results go, checked before any work is done and again when they are put in place."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass

from gradtool.errors import FileAccessError, UsageError
from gradtool.storage.directories import open_parent
from gradtool.storage.links import real_path, target_path
from gradtool.storage.workspace import exists_error


@dataclass(frozen=True, slots=True)
class Target:
    """Where a clipped checkpoint goes.

    Attributes:
        shown: the path as the user gave it.
        path: its real path, so that a symbolic link stays one and what it names is replaced.
        source: the real path of the file, or directory of files, that is clipped.
        overwrite: whether what is at `path` may be replaced.
        parent: the directory of `path`, open since it was checked.
    """

    shown: str
    path: str
    source: str
    overwrite: bool
    parent: int

    @property
    def is_directory(self) -> bool:
        """Whether a whole directory is written."""
        return os.path.isdir(self.source)

    @property
    def is_source(self) -> bool:
        """Whether the file that is clipped is replaced by the result."""
        return self.path == self.source

    def close(self) -> None:
        """Close the open directory."""
        os.close(self.parent)

    def notes(self) -> tuple[str, ...]:
        """Notes on effects that the user may not expect."""
        replaced = not self.is_directory and os.path.isfile(self.path)
        if replaced and os.stat(self.path).st_nlink > 1:
            return (f"{self.shown} has other names (hard links), which keep the old content",)
        return ()


def target_in_place(path: str, source: str) -> Target:
    """The target for clipping `path` in place; `source` is its file, or its directory of files.

    UsageError for a directory.
    """
    if os.path.isdir(source):
        raise UsageError(
            f"{path}: only a single file is clipped in place", hint="give a new directory as `out`"
        )
    real = target_path(path)
    return Target(path, real, real, overwrite=True, parent=_parent_of(path, real))


def target_at(
    path: str, source: str, out: str, *, force: bool, chosen: Collection[str] | None = None
) -> Target:
    """The target `out` for clipping `path`; `source` is its file, or its directory of files.

    Of a directory only what is `chosen` is clipped, if that is given.

    Raises:
        UsageError: `out` exists and may not be replaced, or is `source` or lies in what is clipped.
        FileAccessError: the directory of `out` is missing or cannot be written.
    """
    try:
        source = real_path(source)
    except OSError as error:
        raise FileAccessError(path, f"cannot be opened: {error.strerror}") from error
    real = target_path(out)
    directory = os.path.isdir(source)
    if not os.path.basename(out.rstrip(os.sep)) or (out.endswith(os.sep) and not directory):
        hint = None if directory else f"{path} is a file, and so is what it becomes"
        raise UsageError(f"{out!r} names no {'directory' if directory else 'file'}", hint=hint)
    if os.path.exists(real):
        _refuse_taken(path, source, out, real)
    if os.path.lexists(real) and not force:
        raise exists_error(out)
    for inner in ("",) if chosen is None else chosen:
        place = os.path.join(source, inner).rstrip(os.sep)
        if directory and f"{real}/".startswith(f"{place}/"):
            raise UsageError(f"{out} lies inside {path}, which is to be clipped")
    return Target(out, real, source, overwrite=force, parent=_parent_of(out, real))


def _refuse_taken(path: str, source: str, out: str, real: str) -> None:
    """Raise UsageError for an existing `out` that is not replaced even with `force`."""
    directory = os.path.isdir(source)
    if os.path.exists(source) and os.path.samefile(real, source):
        hint = "give a new directory" if directory else "`in_place=True` replaces it"
        raise UsageError(f"{out} is {path} itself", hint=hint)
    if directory and (not os.path.isdir(real) or os.listdir(real)):
        raise UsageError(
            f"{out} exists and is no empty directory", hint="a directory is never replaced"
        )
    if not directory and not os.path.isfile(real):
        kind = "a directory" if os.path.isdir(real) else "no regular file"
        raise UsageError(f"{out} is {kind}")


def _parent_of(shown: str, path: str) -> int:
    """Open the directory to write in, so that errors show before any work is done.

    It stays open: hours may pass before it is written to, in which its path may come to name
    another directory.
    """
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        raise FileAccessError(shown, "cannot be written: no such directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise FileAccessError(shown, "cannot be written: its directory is read-only")
    return open_parent(parent)
