"""Building a rewritten checkpoint in a workspace: one file, or a whole directory."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradtool.core.locations import Location
from gradtool.engine.schedule import Runner
from gradtool.engine.writing.rewrite import Rewrite, rewrite_file
from gradtool.errors import FileChangedError
from gradtool.storage.copying import Companions
from gradtool.storage.directories import status_in
from gradtool.storage.files import traits_of
from gradtool.storage.sink import create_sink, open_sink
from gradtool.storage.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Built:
    """A file or directory built in a workspace, complete but for owner and permissions.

    Attributes:
        name: its name in the workspace.
        directory: the open directory in which its files are.
        written: the files that were written anew, by their paths in the directory, each with the
            file it was made from.
        companions: all else that a directory holds; None for a single file.
    """

    name: str
    directory: int
    written: dict[str, Location]
    companions: Companions | None

    def sync(self) -> None:
        """Sync the written files to disk."""
        for name in self.written:
            with open_sink(name, dir_fd=self.directory) as sink:
                sink.sync()

    def check_read(self, files: Sequence[Location], path: str) -> None:
        """FileChangedError unless `files`, which were read below `path`, are the ones built."""
        for file in files:
            name = self.name if file.path == path else os.path.relpath(file.path, path)
            status = status_in(self.directory, name)
            if status is None or (status.st_dev, status.st_ino) != file.identity:
                raise FileChangedError(file.path, "is not what was written", hint="run again")

    def finish(self, workspace: Workspace) -> None:
        """Give all files owner, permissions and attributes of the files that they stand for."""
        for name, file in self.written.items():
            with open_sink(name, dir_fd=self.directory) as sink:
                if self.companions is None:
                    workspace.finish(sink)
                    continue
                with file.open() as source:
                    traits_of(source.fileno()).give(sink.descriptor)
                sink.sync()
        if self.companions is not None:
            self.companions.finish(self.directory)


def files_to_write(
    rewrites: Iterable[Rewrite], companions: Companions | None
) -> dict[Location, Rewrite]:
    """The files that are written anew: a single file, or those of a directory that change."""
    return {
        file: rewrite
        for rewrite in rewrites
        for file in (rewrite.checkpoint.files if companions is None else rewrite.changed)
    }


def build(
    rewrites: Sequence[Rewrite], companions: Companions | None, workspace: Workspace, runner: Runner
) -> Built:
    """Build the rewritten file or directory in a workspace; `rewrites` have no file in common.

    It has the name of the original, after which tensors may be named. All else that a directory
    holds is copied along.
    """
    to_write = files_to_write(rewrites, companions)
    runner.progress.begin(sum(file.size for file in to_write))
    if companions is None:
        (file,) = to_write
        name = os.path.basename(file.path)
        files = {name: file}
        directory = workspace.directory
    else:
        name = companions.name
        files = {companions.name_of(file): file for file in to_write}
        directory = workspace.make_directory(name)
        _make_folders(files, directory)
    for file_name, file in files.items():
        with create_sink(file_name, dir_fd=directory) as sink:
            rewrite_file(to_write[file], file, sink, runner)
    runner.progress.finish()
    if companions is not None:
        companions.copy(directory, files)
    return Built(name, directory, files, companions)


def _make_folders(names: Iterable[str], directory: int) -> None:
    """Make the folders that files are to be in; what they stand for is copied along later."""
    made: set[str] = set()
    for name in names:
        parts = name.split(os.sep)[:-1]
        for folder in itertools.accumulate(parts, os.path.join):
            if folder not in made:
                os.mkdir(folder, 0o700, dir_fd=directory)
                made.add(folder)


def check_sources(rewrites: Iterable[Rewrite]) -> None:
    """FileChangedError unless every file is still the one that was catalogued."""
    for rewrite in rewrites:
        for file in rewrite.checkpoint.files:
            file.open().close()
