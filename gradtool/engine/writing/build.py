"""What is to be put in place, built in a workspace: one file, or a whole directory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from gradtool.core.locations import Location
from gradtool.engine.schedule import Runner
from gradtool.engine.writing.rewrite import Rewrite, rewrite_file
from gradtool.errors import FileChangedError
from gradtool.storage.copying import Rest
from gradtool.storage.directories import status_in
from gradtool.storage.files import traits_of
from gradtool.storage.sink import create_sink, open_sink
from gradtool.storage.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Built:
    """What lies in a workspace, complete but for its owner and permissions.

    Attributes:
        name: the file or directory, in the workspace's.
        directory: the open directory in which the files are.
        written: those that were written anew, by name, each with what it was made of.
        rest: what a directory holds beside them; None for a single file.
    """

    name: str
    directory: int
    written: dict[str, Location]
    rest: Rest | None

    def sync(self) -> None:
        """Have the disk hold the files written."""
        for name in self.written:
            with open_sink(name, dir_fd=self.directory) as sink:
                sink.sync()

    def check_read(self, files: Sequence[Location]) -> None:
        """FileChangedError unless what was read by its path is what lies in here."""
        for file in files:
            status = status_in(self.directory, os.path.basename(file.path))
            if status is None or (status.st_dev, status.st_ino) != file.identity:
                raise FileChangedError(file.path, "is not what was written", hint="run again")

    def finish(self, workspace: Workspace) -> None:
        """Give all owner, permissions and extended attributes of what they replace or follow."""
        for name, file in self.written.items():
            with open_sink(name, dir_fd=self.directory) as sink:
                if self.rest is None:
                    workspace.finish(sink)
                    continue
                with file.open() as source:
                    traits_of(source.fileno()).give(sink.descriptor)
                sink.sync()
        if self.rest is not None:
            self.rest.finish(self.directory)


def files_to_write(rewrite: Rewrite, rest: Rest | None) -> Sequence[Location]:
    """The files that are written anew: of a directory, which has a rest, those that change."""
    return rewrite.checkpoint.files if rest is None else rewrite.changed


def build(rewrite: Rewrite, rest: Rest | None, workspace: Workspace, runner: Runner) -> Built:
    """Write what is to be put in place into its workspace.

    It has the name by which it was read, which tensors may be named by. All else that a
    directory holds is copied along.
    """
    files = {os.path.basename(file.path): file for file in files_to_write(rewrite, rest)}
    runner.progress.begin(sum(file.size for file in files.values()))
    if rest is None:
        (name,) = files
        directory = workspace.directory
    else:
        name = rest.name
        directory = workspace.make_directory(name)
    for file_name, file in files.items():
        with create_sink(file_name, dir_fd=directory) as sink:
            rewrite_file(rewrite, file, sink, runner)
    runner.progress.finish()
    if rest is not None:
        rest.copy(directory, files)
    return Built(name, directory, files, rest)


def check_sources(rewrite: Rewrite) -> None:
    """FileChangedError unless every file is still the one that was catalogued."""
    for file in rewrite.checkpoint.files:
        file.open().close()
