"""Fields of a binary header, read one after another, without a mapping and in bounded memory."""

from __future__ import annotations

import re
from itertools import islice
from typing import Final

from gradtool.core.locations import Source

_WINDOW_NBYTES: Final = 1 << 16


class Cursor:
    """A place in a source that moves on as bytes are taken or skipped.

    CorruptFileError where the source ends first. How much is taken at once is the caller's to
    bound; of what is skipped nothing is read.
    """

    def __init__(self, source: Source, at: int = 0) -> None:
        self._source = source
        self._window = b""
        self._start = self._at = at

    @property
    def at(self) -> int:
        """The byte of the source that comes next."""
        return self._at

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return self._source.file.size - self._at

    def take(self, nbytes: int) -> bytes:
        """The next bytes."""
        begin = self._at - self._start
        end = begin + nbytes
        if end > len(self._window):
            self._start, begin, end = self._at, 0, nbytes
            # At least what is needed: where that is too much, the source says so.
            self._window = self._source.read(self._at, max(nbytes, min(self.left, _WINDOW_NBYTES)))
        self._at += nbytes
        return self._window[begin:end]

    def skip_run(self, run: re.Pattern[bytes], one: re.Pattern[bytes], most: int) -> int:
        """Go over values that `run` matches in a row, and `one` each, `most` at most.

        The number of values, not all of them at once perhaps; 0 where the next one does not match,
        or not as far as it is at hand.
        """
        begin = self._at - self._start
        if begin >= len(self._window) and self.left > 0:
            self.take(1)
            self._at -= 1
            begin = 0
        found = run.match(self._window, begin)
        if found is None or found.end() == begin:
            return 0
        count, end = 0, begin
        for match in islice(one.finditer(self._window, begin, found.end()), most):
            count, end = count + 1, match.end()
        self._at = self._start + end
        return count

    def skip(self, nbytes: int) -> None:
        """Go over bytes that are there."""
        if nbytes > self.left:
            self._source.read(self._at, nbytes)  # which says what is not there
        self._at += nbytes
        if self._at - self._start > len(self._window):
            self._start, self._window = self._at, b""
