"""What is to be put in place, built in a workspace: one file, or a whole directory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from gradtool.core.tensors import SourceFile
from gradtool.engine.backend import Backend
from gradtool.engine.rewrite import Rewrite, rewrite_file
from gradtool.engine.schedule import Advance
from gradtool.storage.copying import copy_rest
from gradtool.storage.files import inherit_and_sync, sync
from gradtool.storage.reader import reopen_source
from gradtool.storage.target import Target
from gradtool.storage.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Built:
    """What lies in a workspace, complete but for its owner and permissions.

    Attributes:
        path: the file or directory.
        written: the files that were written anew, each with what it gets those from, if from
            anything.
    """

    path: str
    written: tuple[tuple[str, str | None], ...]

    def sync(self) -> None:
        """Have the disk hold the files written."""
        for path, _ in self.written:
            sync(path)

    def finish(self, target: Target) -> None:
        """Give all owner, permissions and extended attributes of what they replace or follow."""
        for path, old in self.written:
            if old is not None:
                inherit_and_sync(path, old)
        if target.is_directory:
            inherit_and_sync(self.path, target.source)


def files_to_write(rewrite: Rewrite, target: Target) -> Sequence[SourceFile]:
    """The files that are written anew: of a directory those that change."""
    return rewrite.changed if target.is_directory else rewrite.checkpoint.files


def build(
    rewrite: Rewrite,
    target: Target,
    workspace: Workspace,
    *,
    executor: Executor,
    window: int,
    backend: Backend,
    advance: Advance,
) -> Built:
    """Write what is to be at `target` into its workspace.

    It has the name by which it was read, which tensors may be named by. All else that a
    directory holds is copied along.
    """

    def write(file: SourceFile, path: str) -> None:
        rewrite_file(
            rewrite,
            file,
            path,
            executor=executor,
            window=window,
            backend=backend,
            advance=advance,
        )

    files = files_to_write(rewrite, target)
    if not target.is_directory:
        built = workspace.place_for(os.path.basename(rewrite.checkpoint.path))
        write(files[0], built)
        return Built(built, ((built, target.replaced),))
    built = workspace.place_for(os.path.basename(target.source))
    os.mkdir(built)
    named = {os.path.basename(file.path): file for file in files}
    for name, file in named.items():
        write(file, os.path.join(built, name))
    copy_rest(target.source, built, named)
    return Built(
        built, tuple((os.path.join(built, name), file.path) for name, file in named.items())
    )


def check_sources(rewrite: Rewrite) -> None:
    """FileChangedError unless every file is still the one that was catalogued."""
    for file in rewrite.checkpoint.files:
        reopen_source(file).close()
