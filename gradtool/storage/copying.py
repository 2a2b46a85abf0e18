"""What lies beside the files that are written anew, copied along to the new directory."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping

from gradtool.core.tensors import SourceFile
from gradtool.errors import FileAccessError
from gradtool.storage.files import inherit_and_sync
from gradtool.storage.workspace import is_workspace


def copy_rest(old: str, new: str, written: Mapping[str, SourceFile]) -> None:
    """Copy to the directory `new` all that `old` holds but the files `written`, by name.

    Links to within `old` stay links, as those to directories and to nothing do; links to files
    elsewhere become files, so that the copy depends on nothing outside of it. Other names of a
    written file are names of the new one. Files keep owner, permissions, times and extended
    attributes.

    FileAccessError for what cannot be read, or is neither file, directory nor link.
    """
    old = os.path.realpath(old)
    try:
        _Copying(old, new, written).copy("")
    except OSError as error:
        if not str(error.filename).startswith(old):
            raise
        problem = f"cannot be copied along: {error.strerror}"
        raise FileAccessError(str(error.filename), problem) from error


class _Copying:
    """The walk over one tree."""

    def __init__(self, old: str, new: str, written: Mapping[str, SourceFile]) -> None:
        self._old = old
        self._new = new
        self._names = frozenset(written)
        self._written = {(file.device, file.inode): name for name, file in written.items()}

    def copy(self, directory: str) -> None:
        """Copy what `directory` holds, a path within the tree."""
        for name in sorted(os.listdir(os.path.join(self._old, directory))):
            if not directory and (name in self._names or is_workspace(name)):
                continue
            path = os.path.join(directory, name)
            source, copy = os.path.join(self._old, path), os.path.join(self._new, path)
            link = self._link(source)
            if link is not None:
                os.symlink(link, copy)
                continue
            status = os.stat(source)
            if stat.S_ISDIR(status.st_mode):
                os.mkdir(copy)
                self.copy(path)
            elif (status.st_dev, status.st_ino) in self._written:
                same = self._written[status.st_dev, status.st_ino]
                os.link(os.path.join(self._new, same), copy)
                continue
            elif stat.S_ISREG(status.st_mode):
                shutil.copy2(source, copy)
            else:
                raise FileAccessError(source, "cannot be copied along: no regular file")
            inherit_and_sync(copy, source)

    def _link(self, source: str) -> str | None:
        """What a link's copy says; None for what is none, or becomes a file."""
        if not os.path.islink(source):
            return None
        real = os.path.realpath(source)
        if not os.path.exists(real):
            return os.readlink(source)
        if os.path.commonpath([real, self._old]) == self._old:
            return os.path.relpath(real, os.path.dirname(source))
        return real if os.path.isdir(real) else None
