"""What is to be put in place, built in a workspace: one file, or a whole directory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor

from gradtool.core.tensors import SourceFile
from gradtool.engine.rewrite import Rewrite, rewrite_file
from gradtool.engine.schedule import Advance
from gradtool.storage.copying import copy_rest
from gradtool.storage.files import inherit, sync
from gradtool.storage.reader import reopen_source
from gradtool.storage.target import Target


def files_to_write(rewrite: Rewrite, target: Target) -> tuple[SourceFile, ...]:
    """The files that `build` writes itself: of a directory those that change."""
    return rewrite.changed if target.is_directory else rewrite.checkpoint.files


def build(
    rewrite: Rewrite,
    target: Target,
    workspace: str,
    *,
    executor: Executor,
    window: int,
    advance: Advance,
) -> str:
    """Write what is to be at `target` into the directory `workspace`; where it is there.

    It has the name by which it was read, which tensors may be named by. A directory and what is
    in it get owner, permissions and extended attributes of the old ones.
    """
    files = files_to_write(rewrite, target)
    if not target.is_directory:
        built = os.path.join(workspace, os.path.basename(rewrite.checkpoint.path))
        rewrite_file(rewrite, files[0], built, executor=executor, window=window, advance=advance)
        return built
    built = os.path.join(workspace, os.path.basename(target.source))
    os.mkdir(built)
    named = {os.path.basename(file.path): file for file in files}
    for name, file in named.items():
        path = os.path.join(built, name)
        rewrite_file(rewrite, file, path, executor=executor, window=window, advance=advance)
        inherit(path, file.path)
    copy_rest(target.source, built, named)
    inherit(built, target.source)
    return built


def sync_all(built: str, written: Iterable[str]) -> None:
    """Have the disk hold the files `written`, and the directory `built` if it is one."""
    for path in written:
        sync(path)
    if os.path.isdir(built):
        sync(built)


def written_paths(rewrite: Rewrite, target: Target, built: str) -> Iterator[str]:
    """Where `build` has put the files that it wrote itself."""
    if not target.is_directory:
        yield built
        return
    for file in files_to_write(rewrite, target):
        yield os.path.join(built, os.path.basename(file.path))


def check_sources(rewrite: Rewrite) -> None:
    """FileChangedError unless every file is still the one that was catalogued."""
    for file in rewrite.checkpoint.files:
        reopen_source(file).close()
