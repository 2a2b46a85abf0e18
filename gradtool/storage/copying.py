"""What lies beside the files that are written anew, copied along to the new directory."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping

from gradtool.core.tensors import SourceFile
from gradtool.errors import FileAccessError
from gradtool.storage.workspace import inherit, is_workspace, sync


def copy_rest(old: str, new: str, written: Mapping[str, SourceFile]) -> None:
    """Copy to the directory `new` all that `old` holds but the files `written`, by name.

    Links to files become files, so that the copy depends on nothing outside of it; those within
    the directory, to directories and to nothing stay links. Other names of a written file are
    names of the new one. Files keep owner, permissions, times and extended attributes.

    FileAccessError for what is neither file, directory nor link.
    """
    written_as = {(file.device, file.inode): name for name, file in written.items()}
    for name in sorted(os.listdir(old)):
        if name in written or is_workspace(name):
            continue
        source, copy = os.path.join(old, name), os.path.join(new, name)
        if _stays_link(source):
            os.symlink(os.readlink(source), copy)
            continue
        status = os.stat(source)
        if stat.S_ISDIR(status.st_mode):
            os.mkdir(copy)
            copy_rest(source, copy, {})
            inherit(copy, source)
            sync(copy)
        elif (status.st_dev, status.st_ino) in written_as:
            os.link(os.path.join(new, written_as[status.st_dev, status.st_ino]), copy)
        elif stat.S_ISREG(status.st_mode):
            shutil.copy2(source, copy)
            inherit(copy, source)
            sync(copy)
        else:
            raise FileAccessError(source, "cannot be copied along: no regular file")


def _stays_link(path: str) -> bool:
    if not os.path.islink(path):
        return False
    within = os.path.dirname(os.readlink(path)) == ""
    return within or not os.path.isfile(path)
