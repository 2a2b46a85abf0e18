"""A range of a file as a source of its own, for readers of archives that lie in a larger file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from gradtool.core.locations import Location, Source
from gradtool.errors import InputError
from gradtool.storage.reader import OpenLocation

_AHEAD_NBYTES: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class Range:
    """`size` bytes of a file from byte `offset` on, as a location whose first byte has number 0."""

    whole: Location
    offset: int
    size: int

    @property
    def path(self) -> str:
        """See `Location`, as for all others."""
        return self.whole.path

    @property
    def identity(self) -> None:
        """None: it is no file."""

    def open(self) -> Source:
        """Open the file, for this range of it."""
        return OpenRange(self, self.whole.open())


class OpenRange(OpenLocation):
    """An open range; closing it closes the source that it reads."""

    def __init__(self, within: Range, source: Source) -> None:
        super().__init__(within)
        self._source = source
        self._offset = within.offset

    def close(self) -> None:
        """See `Source`, as for all others."""
        self._source.close()

    def check_unchanged(self) -> None:
        """Whether the file changed."""
        self._source.check_unchanged()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `offset` of the range."""
        self._source.read_into(self._offset + offset, buffer)

    def _read_some(self, offset: int, buffers: Sequence[memoryview]) -> int:
        self.read_into(offset, buffers[0])
        return len(buffers[0])


@contextmanager
def reading_item(path: str, offset: int, name: str) -> Iterator[None]:
    """Make of an InputError about an item, which is the tensor `name` of a file, one of the file's.

    The item begins at byte `offset`.
    """
    try:
        yield
    except InputError as error:
        record = "" if error.tensor is None else f"{error.tensor!r:.80}: "
        byte = offset + (error.byte or 0)
        raise type(error)(
            path, f"its item: {record}{error.problem}", tensor=name, byte=byte
        ) from error


class ReadAhead(OpenLocation):
    """An open file of which headers are read in ascending order, many of them near each other."""

    def __init__(self, source: Source) -> None:
        super().__init__(source.file)
        self._source = source
        self._start = 0
        self._bytes = b""

    def close(self) -> None:
        """See `Source`, as for all others."""
        self._source.close()

    def check_unchanged(self) -> None:
        """Whether the file changed."""
        self._source.check_unchanged()

    def read(self, offset: int, nbytes: int) -> bytes:
        """`nbytes` bytes from `offset`, most of the time without asking the system."""
        start = offset - self._start
        if start < 0 or start + nbytes > len(self._bytes):
            remaining = self.file.size - offset
            self._bytes = self._source.read(offset, max(nbytes, min(remaining, _AHEAD_NBYTES)))
            self._start, start = offset, 0
        return self._bytes[start : start + nbytes]

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`."""
        buffer[:] = self.read(offset, len(buffer))

    def _read_some(self, offset: int, buffers: Sequence[memoryview]) -> int:
        self.read_into(offset, buffers[0])
        return len(buffers[0])
