"""The store of a recorder, followed: each row is told of once it is committed.

What is idle costs next to nothing: only a store of which the system says that it changed is opened,
and it is asked for the rows that were written since. Nothing is locked meanwhile but for single
rows, so that the training never waits long.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from gradtool.api.follow.news import PATIENCE_S, Key, News, Telling, key_of, said_of
from gradtool.api.recorded import Rows, judged_unreadable, refuse_what_rows_lack
from gradtool.core.trends.steps import Step
from gradtool.errors import FileAccessError
from gradtool.rules.spikes import has_norm, norms_needed
from gradtool.storage.rows.header import state_of
from gradtool.storage.rows.place import NoStoreError

if TYPE_CHECKING:  # it loads SQLite, which some builds of Python are without
    from gradtool.api.trending import Following
    from gradtool.storage.rows.record import RecordReader

_LOCKED_S: Final = 0.2
"""How long a look waits for who writes; the next one is soon enough."""


class _Known(NamedTuple):
    """A row that was read: its change, and the step."""

    change: int
    step: Step


@dataclass(slots=True)
class FollowedStore:
    """A store, in so far as it has been told of; it may come later, go, and come back.

    Attributes:
        path: of the store.
        reader: makes steps of rows.
        settle_s: for how many seconds it must be found to be unreadable before that is told.
        clock: seconds that never go back.
        notes: takes what is to be known of the rows that are there at the first look.
    """

    path: str
    reader: Following
    settle_s: float
    clock: Callable[[], float]
    notes: list[str]
    _telling: Telling = field(init=False)
    _rows: Rows = field(init=False)
    _known: dict[int, _Known] = field(default_factory=dict)
    _waiting: set[int] = field(default_factory=set)
    _newest: int = 0
    _state: tuple[int, ...] = ()
    _reading: int | None = None
    _failing_since: float | None = None
    _is_told: bool = False
    _is_first: bool = True

    def __post_init__(self) -> None:
        refuse_what_rows_lack(self.path, self.reader.judging)
        self._telling = Telling(self.path, self.reader)
        self._rows = Rows(self.path, self.reader.judging)

    @property
    def has_steps(self) -> bool:
        """Whether anything was told of it."""
        return bool(self._known) or self._is_told

    def look(self) -> Iterator[News]:
        """What was committed since the last look, in the order of steps.

        A store that cannot be read is news if that lasts, and until then is looked at again.
        """
        state = state_of(self.path)
        if state == self._state:
            return
        if not state:  # what comes back may be another one
            self._state, self._failing_since = (), None
            return
        *place, count = state[0], state[1], state[-1]
        # A file removed and made again may have the same inode; of one SQLite counts changes up.
        is_other = place != [*self._state[:2]] or count <= self._state[-1]
        while True:
            read: dict[Key, bool] = {}
            started = time.perf_counter()
            failure = self._read(read, is_other=is_other)
            yield from self._telling.news(self._around(read), read)
            if failure is not None:
                yield from self._failed(failure, started)
                return
            if not self._waiting:
                break
            is_other = False
        self._state, self._failing_since, self._is_told = state, None, False
        if self._is_first:
            self._is_first = False
            self.notes.extend(self._rows.notes())

    def _around(self, read: Mapping[Key, bool]) -> list[Step]:
        """The steps that were read, and those around them that decide what is found of them.

        A run has a step each second for weeks: to judge all of them anew each time takes too long.
        """
        if not read:
            return []
        numbers = sorted(self._known)
        needed = norms_needed(self.reader.judging.judge.policy)
        places = [bisect_left(numbers, number or 0) for _, number in read]
        start, end = min(places), max(places) + 1 + needed
        norms = 0
        while start and norms < needed:
            start -= 1
            norms += has_norm(self._known[numbers[start]].step.verdict)
        return [self._known[number].step for number in numbers[start:end]]

    def _read(self, read: dict[Key, bool], *, is_other: bool) -> NoStoreError | ValueError | None:
        """Read new rows for a while, and note what to tell of; what keeps them from being read."""
        try:
            from gradtool.storage.rows.record import reading  # noqa: PLC0415 - as above

            with reading(self.path, _LOCKED_S) as rows:
                self._look_for_changes(rows, is_other=is_other)
                begun = time.monotonic()
                for step in sorted(self._waiting):
                    self._reading = step
                    self._keep(step, rows, read)
                    self._waiting.discard(step)
                    if time.monotonic() - begun >= PATIENCE_S:
                        break
                self._reading = None
        except (NoStoreError, ValueError) as error:
            return error
        except ImportError as error:
            raise FileAccessError(self.path, "not read: this Python is without SQLite") from error
        return None

    def _look_for_changes(self, rows: RecordReader, *, is_other: bool) -> None:
        """Take in which rows are new; of another store than before, which are the same."""
        self._reading = None
        is_other = is_other or rows.newest_change() < self._newest
        changes = rows.changed(0 if is_other else self._newest)
        if is_other:
            before, self._known = self._known, {}
            for change, step in changes:
                if step in before and before[step].change == change:
                    self._known[step] = before[step]
            self._waiting.clear()
        self._waiting.update(step for _, step in changes if not is_other or step not in self._known)
        self._newest = changes[-1][0] if changes else 0 if is_other else self._newest

    def _keep(self, step: int, rows: RecordReader, read: dict[Key, bool]) -> None:
        """Read a row, and note that it is to be told of, if it is another than before."""
        started = time.perf_counter()
        row = rows.row(step)
        if row is None:
            return
        judging = self.reader.judging
        found = judging.judged(self._rows.measurement(row, rows), None, self.path, started)
        one = self.reader.row(found)
        known = self._known.get(step)
        self._known[step] = _Known(row.change, one)
        if known is None or known.change != row.change:
            read[key_of(one)] = known is not None and said_of(known.step) != said_of(one)

    def _failed(self, failure: NoStoreError | ValueError, started: float) -> Iterator[News]:
        """Say once that it cannot be read, if that has been so for a while."""
        now = self.clock()
        if self._failing_since is None:  # who writes may be at it just now
            self._failing_since = now
        elif not self._is_told and now - self._failing_since >= self.settle_s:
            self._is_told = True
            judged = judged_unreadable(self.path, failure, self._reading, started)
            yield self._telling.of_step(self.reader.row(judged))
