"""What steps there are below sources, by names alone: asked each second, so little may be done."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gradtool.core.file_names import is_unfinished, series_of
from gradtool.formats.files import SUFFIXES
from gradtool.formats.layouts.arrangement import Unit, arranged, counts_ranks
from gradtool.storage.listing import expanded, is_glob

_DEEPEST = 3
"""Folders in which steps may lie below a directory that is followed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A step as names tell of it.

    Attributes:
        paths: of its file or folder, or of those that make up a set.
        name: its path; of a set a glob.
        step: its number; -1 for none.
        is_set: whether it is a set of files, be it one of which one is there so far.
        lacks: whether names tell that some are missing.
        series: the same for all steps of a run.
    """

    paths: tuple[str, ...]
    name: str
    step: int
    is_set: bool
    lacks: bool
    series: str


@dataclass(slots=True)
class Names:
    """The entries below the sources; what a directory holds is looked at again if that changes."""

    sources: Sequence[str]
    _folders: dict[str, _Folder] = field(default_factory=dict)

    def entries(self) -> Iterator[Entry]:
        """All that are there now."""
        for source in self.sources:
            if is_glob(source) and not os.path.lexists(source):
                yield from _entries("", [path for path in expanded(source) if path != source])
            elif os.path.isdir(source):
                yield from self._in_folder(source, _DEEPEST)
            elif os.path.lexists(source):
                yield from _entries("", [source])

    def _in_folder(self, path: str, levels: int) -> Iterator[Entry]:
        folder = self._folders.setdefault(path, _Folder(path))
        folder.look()
        yield from folder.entries
        for inside in folder.folders if levels > 1 else ():
            yield from self._in_folder(inside, levels - 1)


@dataclass(slots=True)
class _Folder:
    """A directory: the steps in it, and folders that are none themselves."""

    path: str
    entries: tuple[Entry, ...] = ()
    folders: tuple[str, ...] = ()
    _names: frozenset[str] = frozenset()

    def look(self) -> None:
        """See what is there, if it is not what was there before."""
        try:
            names = frozenset(os.listdir(self.path))
        except OSError:  # gone, or not to be read: so there is nothing
            names = frozenset()
        if names == self._names:
            return
        self._names = names
        shown = sorted(name for name in names if not name.startswith("."))
        are_folders = {name for name in shown if self._is_folder(name)}
        steps = {name for name in are_folders if Unit(name).counts_steps or name.isdecimal()}
        files = [name for name in shown if name.lower().endswith(SUFFIXES) and name not in steps]
        files = [name for name in files if name not in are_folders]
        self.entries = tuple(_entries(os.path.join(self.path, ""), [*files, *sorted(steps)]))
        others = sorted(are_folders - steps)
        self.folders = tuple(os.path.join(self.path, name) for name in others)

    def _is_folder(self, name: str) -> bool:
        path = os.path.join(self.path, name)
        return os.path.isdir(path) and not os.path.islink(path) and not is_unfinished(name)


def _entries(place: str, names: Sequence[str]) -> Iterator[Entry]:
    for unit in arranged(names):
        name = place + unit.name
        is_set = unit.kind != "entry" or counts_ranks(unit.name)
        lacks = unit.is_short or (unit.count is not None and len(unit.members) < unit.count)
        step = -1 if unit.step is None else unit.step
        paths = tuple(place + entry for entry in unit.entries)
        yield Entry(paths, name, step, is_set, lacks, series_of(name))
