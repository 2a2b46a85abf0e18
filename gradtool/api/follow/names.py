"""What steps there are below sources, by names alone: asked each second, so little may be done."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gradtool.core.file_names import is_unfinished, series_of
from gradtool.formats.files import is_tensor_file
from gradtool.formats.layouts.arrangement import Unit, arranged, counts_ranks
from gradtool.storage.listing import expanded
from gradtool.storage.rows.header import RECORDED_SUFFIX, without_link

_DEEPEST = 3
"""Folders in which steps may lie below a directory that is followed."""

_SURE = 3
"""Looks at which a directory was the same, after which it is not listed again."""


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
    _all: Mapping[str, Entry] = field(default_factory=dict)
    _parts: list[tuple[Entry, ...]] = field(default_factory=list)
    _folders: dict[str, _Folder] = field(default_factory=dict)
    _matches: dict[str, _Matches] = field(default_factory=dict)

    def entries(self) -> Mapping[str, Entry]:
        """All that are there now, by their names; the same object as long as they are the same."""
        parts = [part for source in self.sources for part in self._below(source)]
        if list(map(id, parts)) != list(map(id, self._parts)):
            self._all = {entry.name: entry for part in parts for entry in part}
            self._parts = parts
        return self._all

    @property
    def records(self) -> list[str]:
        """The stores of recorders that sources name, of those that were there at the last look."""
        found = dict.fromkeys(path for known in self._matches.values() for path in known.records)
        return list(found)

    def _below(self, source: str) -> Iterator[tuple[Entry, ...]]:
        if os.path.isdir(source):
            yield from self._in_folder(source, _DEEPEST)
            return
        paths = [path for path in expanded(source) if os.path.lexists(path)]
        known = self._matches.get(source)
        if known is None or known.paths != paths:
            known = self._matches[source] = _matches_among(paths)
        yield known.entries

    def _in_folder(self, path: str, levels: int) -> Iterator[tuple[Entry, ...]]:
        folder = self._folders.setdefault(path, _Folder(path))
        folder.look()
        yield folder.entries
        for inside in folder.folders if levels > 1 else ():
            yield from self._in_folder(inside, levels - 1)


class _Matches(NamedTuple):
    """What a glob matches, or a path that is no directory: dumps, and stores of recorders."""

    paths: list[str]
    entries: tuple[Entry, ...]
    records: list[str]


def _matches_among(paths: list[str]) -> _Matches:
    records = [path for path in paths if path.endswith(RECORDED_SUFFIX) and os.path.isfile(path)]
    dumps = [path for path in paths if path not in records] if records else paths
    return _Matches(paths, tuple(_entries("", dumps)), [*map(without_link, records)])


@dataclass(slots=True)
class _Folder:
    """A directory: the steps in it, and folders that are none themselves."""

    path: str
    entries: tuple[Entry, ...] = ()
    folders: tuple[str, ...] = ()
    _names: frozenset[str] = frozenset()
    _key: tuple[int, ...] = ()
    _looks: int = 0

    def look(self) -> None:
        """See what is there, if it is not what was there before."""
        if self._is_same():
            return
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
        others = [name for name in shown if name not in are_folders]
        files = [name for name in others if is_tensor_file(name)]
        self.entries = tuple(_entries(os.path.join(self.path, ""), [*files, *sorted(steps)]))
        self.folders = tuple(os.path.join(self.path, name) for name in sorted(are_folders - steps))

    def _is_same(self) -> bool:
        """Whether the system has said for several looks that no name came or went.

        Within one tick of its clock it could say so of a directory that changed.
        """
        try:
            status = os.stat(self.path)
        except OSError:
            return False
        key = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        self._looks = self._looks + 1 if key == self._key else 0
        self._key = key
        return self._looks >= _SURE

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
