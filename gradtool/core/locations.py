"""Where bytes are: locations, contiguous ranges of them, and streams that are no range."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self


class Location(Protocol):
    """Bytes as they were when their headers were read: a value that any process can open.

    Two are equal if they are the same bytes, whichever host looked at them.
    """

    @property
    def path(self) -> str:
        """The place, as it is shown."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    @property
    def identity(self) -> tuple[int, int] | None:
        """Equal for all names of one file of this host; None for what is no file of it."""

    def open(self) -> Source:
        """The same bytes, opened; FileChangedError where others are there now."""


class Source(Protocol):
    """A location that was opened: read by absolute offset; a context manager.

    `file` is what it was then. What lies outside of it is refused before anything is allocated.
    """

    @property
    def path(self) -> str:
        """The place, as it is shown."""

    @property
    def file(self) -> Location:
        """The location."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def close(self) -> None:
        """Give back what was opened."""

    def read(self, offset: int, nbytes: int) -> bytes:
        """`nbytes` bytes from `offset`, allocated whole: for headers, of a size that was bounded.

        CorruptFileError where the location does not hold them.
        """

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`; FileChangedError where the bytes are gone."""

    def read_vector(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill `buffers`, at most 1,024 of them, one after another; else as `read_into`."""

    def check_unchanged(self) -> None:
        """FileChangedError unless it still is what it was."""

    def fileno(self) -> int:
        """The descriptor of a file, for what is no reading: permissions and attributes.

        FileAccessError where there is none.
        """


@dataclass(frozen=True, slots=True)
class Extent:
    """A contiguous byte range: `nbytes` bytes of `file` from byte `offset`."""

    file: Location
    offset: int
    nbytes: int

    @property
    def end(self) -> int:
        """The byte after the last one."""
        return self.offset + self.nbytes

    def overlaps(self, other: Extent) -> bool:
        """Whether the two have a byte in common."""
        apart = self.end <= other.offset or other.end <= self.offset
        return not apart and self.file == other.file


class Stream(Protocol):
    """Bytes that are no range of a file: a plain value that can be opened in any process."""

    @property
    def nbytes(self) -> int:
        """How many they are."""

    def pieces(self, max_bytes: int) -> Iterator[memoryview]:
        """All of them in order, in pieces of `max_bytes`, only the last one shorter.

        A piece is valid until the next is asked for. Raises InputError.
        """


@dataclass(frozen=True, slots=True)
class Inline:
    """A stream of bytes that were decoded along with a header."""

    data: bytes

    @property
    def nbytes(self) -> int:
        """How many they are."""
        return len(self.data)

    def pieces(self, max_bytes: int) -> Iterator[memoryview]:
        """As `Stream` has it."""
        view = memoryview(self.data)
        for start in range(0, len(view), max_bytes):
            yield view[start : start + max_bytes]
