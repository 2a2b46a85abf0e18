"""Progress of work that has parts, reported to one observer for all of them together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Observer = Callable[[int, int], None]
"""Called with bytes done and bytes to do, from the thread that started the work."""


class Progress:
    """The progress of one part of the work."""

    def __init__(self, total: _Total, share: int | None) -> None:
        self._total = total
        self._share = share
        self._todo: int | None = None
        self._done = 0
        self._reported = 0

    def begin(self, todo: int) -> None:
        """Note that the part has `todo` bytes to do; only the first call counts."""
        if self._todo is None:
            self._todo = todo
            if self._share is None:
                self._share = todo
                self._total.begin(todo)

    def divided(self, count: int) -> list[Progress]:
        """The progress of `count` parts that come beside this one, which has not begun."""
        self._total.add_waiting(count)
        return [Progress(self._total, None) for _ in range(count)]

    def advance(self, nbytes: int) -> None:
        """Note that `nbytes` more bytes are done."""
        todo, share = self._todo or 0, self._share or 0
        self._done = min(self._done + nbytes, todo)
        self._report(share * self._done // max(todo, 1))

    def finish(self) -> None:
        """Note that the part is done, even after fewer bytes: shared ones are read once."""
        if self._todo is None and self._share is None:
            self._total.leave_out()
        self._todo = self._todo or 0
        self._report(self._share or 0)

    def _report(self, nbytes: int) -> None:
        """Report that `nbytes` bytes of the share are done."""
        self._total.advance(nbytes - self._reported)
        self._reported = nbytes


def whole_progress(observer: Observer | None) -> Progress:
    """The progress of work that has no parts."""
    return split_progress(observer, [None])[0]


def split_progress(observer: Observer | None, shares: Sequence[int | None]) -> list[Progress]:
    """The progress of each part of the work, given its share of the bytes that are reported.

    A share of None becomes the bytes that the part has to do, once it begins. Until then it is
    taken for the average of those parts of this kind that have begun.
    """
    fixed = sum(share for share in shares if share is not None)
    total = _Total(observer, fixed, shares.count(None))
    return [Progress(total, share) for share in shares]


class _Total:
    """The bytes of all parts together: `fixed` ones, and those of parts that begin later."""

    def __init__(self, observer: Observer | None, fixed: int, waiting: int) -> None:
        self._observer = observer
        self._fixed = fixed
        self._begun_nbytes = 0
        self._begun = 0
        self._waiting = waiting
        self._done = 0
        self._reported = (0, 0)

    def begin(self, todo: int) -> None:
        """Note that one of the waiting parts has begun, with `todo` bytes to do."""
        self._begun_nbytes += todo
        self._begun += 1
        self._waiting -= 1

    def add_waiting(self, count: int) -> None:
        """Note that `count` more parts are to begin."""
        self._waiting += count

    def leave_out(self) -> None:
        """Note that one of the waiting parts has nothing to do; others may have as much as ever."""
        self._waiting -= 1

    def advance(self, nbytes: int) -> None:
        """Note that `nbytes` more bytes are done, and call the observer if its figures change."""
        self._done += nbytes
        expected = self._begun_nbytes * self._waiting // max(self._begun, 1)
        figures = self._done, self._fixed + self._begun_nbytes + expected
        if self._observer is not None and figures != self._reported:
            self._reported = figures
            self._observer(*figures)
