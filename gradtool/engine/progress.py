"""How far work is that has parts: what an observer is told of all of them together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Observer = Callable[[int, int], None]
"""Called with bytes done and bytes to do, from the thread that started the work."""


class Progress:
    """How far one part of the work is."""

    def __init__(self, together: _Together, share: int | None) -> None:
        self._together = together
        self._share = share
        self._todo: int | None = None
        self._done = 0
        self._counted = 0

    def begin(self, todo: int) -> None:
        """There are so many bytes to do; nothing if that was said before."""
        if self._todo is None:
            self._todo = todo
            if self._share is None:
                self._share = todo
                self._together.begin(todo)

    def by(self, nbytes: int) -> None:
        """So many bytes more are done."""
        todo, share = self._todo or 0, self._share or 0
        self._done = min(self._done + nbytes, todo)
        self._count(share * self._done // max(todo, 1))

    def finish(self) -> None:
        """All is done, or nothing had to be: bytes that tensors share are read once, say."""
        self.begin(0)
        self._count(self._share or 0)

    def _count(self, nbytes: int) -> None:
        self._together.advance(nbytes - self._counted)
        self._counted = nbytes


def whole(observer: Observer | None) -> Progress:
    """The progress of work that has no parts."""
    return parts(observer, [None])[0]


def parts(observer: Observer | None, shares: Sequence[int | None]) -> list[Progress]:
    """The parts of one piece of work, each with its share of the bytes that are told of.

    A share of None is what the part turns out to have to do. Until it begins it is taken to be as
    large as those of its kind that have begun.
    """
    known = sum(share for share in shares if share is not None)
    together = _Together(observer, known, shares.count(None))
    return [Progress(together, share) for share in shares]


class _Together:
    """All parts together: shares that are known, and those that are found as parts begin."""

    def __init__(self, observer: Observer | None, known: int, unknown: int) -> None:
        self._observer = observer
        self._known = known
        self._found = 0
        self._begun = 0
        self._waiting = unknown
        self._done = 0
        self._told = (0, 0)

    def begin(self, todo: int) -> None:
        """One more part has begun, with so many bytes to do."""
        self._found += todo
        self._begun += 1
        self._waiting -= 1

    def advance(self, nbytes: int) -> None:
        """So many bytes more are done; tells the observer unless it knows."""
        self._done += nbytes
        expected = self._found * self._waiting // max(self._begun, 1)
        told = self._done, self._known + self._found + expected
        if self._observer is not None and told != self._told:
            self._told = told
            self._observer(*told)
