"""Which steps are finished: none is read while it is being written.

A file that is whole by its format is finished once it did not change from one look to the next, and
so is a set with an index. All else is finished when nothing in it changed for a while; then a file
that is not whole is broken. A set has as many files as the step before by then, or a later step is
there already. What changes is told by what the system says of files.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gradtool.api.follow.names import Entry, Names
from gradtool.storage.rows.identity import Identity, identity_of, now_ns

_INDEXES: Final = (".index.json", ".metadata", "_checkpoint_metadata", "manifest.ocdbt")
"""Files that writers of sets write last."""

_OLD_NS: Final = 60_000_000_000
"""What had not changed for so long when following began is settled, whatever clocks say."""

_AGAIN: Final = 200
"""Files of steps that were shown of which one look sees whether they changed: all in turn."""


@dataclass(slots=True)
class Watched:
    """A step, and what is known of it.

    Attributes:
        entry: its names.
        identity: its files as they were last.
        since: when they were first so, in seconds of a clock that never goes back.
        looks: how often they were so.
        tried: whether they were read, and were not whole.
        shown: as they were when the step was shown; None if it never was.
    """

    entry: Entry
    identity: Identity | None = None
    since: float = 0.0
    looks: int = 0
    tried: bool = False
    shown: Identity | None = None

    @property
    def path(self) -> str:
        """How the step is called: the path of its file or folder, or a glob."""
        return self.entry.name

    @property
    def tells_its_end(self) -> bool:
        """Whether it is a file, or has the one that writers write last, so that it may be whole."""
        entries = () if self.identity is None else self.identity.entries
        if any(one.name.endswith(_INDEXES) for one in entries):
            return True
        return not self.entry.is_set and not os.path.isdir(self.path)

    @property
    def files(self) -> int:
        """How many it has."""
        return 0 if self.identity is None else len(self.identity.entries)


@dataclass(slots=True)
class Watch:
    """The steps below some sources, looked at again and again."""

    sources: Sequence[str]
    settle_s: float
    clock: Callable[[], float] = time.monotonic
    _names: Names = field(init=False)
    _entries: Mapping[str, Entry] = field(default_factory=dict)
    _watched: dict[str, Watched] = field(default_factory=dict)
    _open: dict[str, Watched] = field(default_factory=dict)
    _again: list[str] = field(default_factory=list)
    _newest: dict[str, int] = field(default_factory=dict)
    _before: dict[str, Watched] = field(default_factory=dict)
    _is_first: bool = True

    def __post_init__(self) -> None:
        self._names = Names(self.sources)

    def finished(self) -> Iterator[tuple[Watched, bool]]:
        """The steps that may be read now, and whether each is to be shown whatever is in it."""
        now = self.clock()
        self._look_at_names()
        for name in list(self._open):
            self._look(name, now)
        if self._is_first:
            self._trust_old(now)
        self._look_again(now)
        for one in sorted(self._open.values(), key=lambda one: (one.entry.step, one.path)):
            if one.identity is None:
                continue
            if now - one.since >= self.settle_s and self._has_all_files(one):
                yield one, True
            elif one.looks > 1 and not one.tried and one.tells_its_end:
                yield one, False

    @property
    def has_any(self) -> bool:
        """Whether there was a step at the last look."""
        return bool(self._watched)

    @property
    def records(self) -> Sequence[str]:
        """The stores of recorders that were there at the last look."""
        return self._names.records

    def has(self, name: str) -> bool:
        """Whether a step of that name was there at the last look."""
        return name in self._watched

    def before(self, one: Watched) -> Watched | None:
        """The last step of its series that was shown, if it is an earlier one."""
        found = self._before.get(one.entry.series)
        return found if found is not None and found.entry.step < one.entry.step else None

    def note_shown(self, one: Watched) -> None:
        """Take in that a step is shown, as it is now."""
        one.shown = one.identity
        self._open.pop(one.path, None)
        last = self._before.setdefault(one.entry.series, one)
        if last.entry.step <= one.entry.step:
            self._before[one.entry.series] = one

    def _look_at_names(self) -> None:
        """Take in which steps came and went."""
        entries = self._names.entries()
        if entries is self._entries:
            return
        self._entries = entries
        for gone in self._watched.keys() - entries.keys():
            del self._watched[gone]
            self._open.pop(gone, None)
        for name in entries.keys() - self._watched.keys():
            entry = entries[name]
            self._watched[name] = self._open[name] = Watched(entry)
            self._newest[entry.series] = max(entry.step, self._newest.get(entry.series, -1))

    def _look_again(self, now: float) -> None:
        """See whether steps that were shown are the same, a few at each look."""
        seen = 0
        self._again = self._again or list(self._watched)
        while self._again and seen < _AGAIN:
            name = self._again.pop()
            if name in self._watched and name not in self._open:
                self._look(name, now)
                seen += 1 + self._watched[name].files

    def _look(self, name: str, now: float) -> None:
        one = self._watched[name]
        one.entry = self._entries[name]
        identity = identity_of(one.entry.paths)
        if identity == one.identity and identity is not None:
            one.looks += 1
            return
        one.identity, one.since, one.looks, one.tried = identity, now, 1, False
        if identity == one.shown:
            self._open.pop(name, None)
        else:
            self._open[name] = one

    def _trust_old(self, now: float) -> None:
        """Take steps that have long been as they are for settled."""
        self._is_first = False
        for one in self._open.values():
            if one.identity is not None and _is_old(one.identity):
                one.since, one.looks = now - self.settle_s, 2

    def _has_all_files(self, one: Watched) -> bool:
        """Whether a set has as many files as the step before, or is not the last one any more."""
        if one.tells_its_end or self._newest[one.entry.series] > one.entry.step:
            return True
        before = self.before(one)
        return not one.entry.lacks and (before is None or one.files >= before.files)


def _is_old(identity: Identity) -> bool:
    newest = max(max(one.mtime_ns, one.ctime_ns) for one in identity.entries)
    return newest + _OLD_NS <= now_ns()
