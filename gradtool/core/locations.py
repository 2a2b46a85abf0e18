"""Where bytes are: locations, contiguous ranges of them, and streams, which are not ranges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self


class Location(Protocol):
    """A file, or other bytes, as it was when its headers were read: a value for any process.

    Two locations are equal if they hold the same bytes, whichever host looked at them.
    """

    @property
    def path(self) -> str:
        """Its path, as shown to users."""

    @property
    def size(self) -> int:
        """Its size in bytes."""

    @property
    def identity(self) -> tuple[int, int] | None:
        """Equal for all names of one file on this host; None for anything but a file of it."""

    def open(self) -> Source:
        """Open it for reading; FileChangedError if it has changed."""


class Source(Protocol):
    """An open location, read at absolute offsets; a context manager."""

    @property
    def path(self) -> str:
        """The location's path, as shown to users."""

    @property
    def file(self) -> Location:
        """The location as it was when it was opened."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def close(self) -> None:
        """Close it."""

    def read(self, offset: int, nbytes: int) -> bytes:
        """`nbytes` bytes from `offset`, in memory at once: for headers, whose size is bounded.

        CorruptFileError, before anything is allocated, where the location does not hold them.
        """

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`; FileChangedError where the bytes are gone."""

    def read_vector(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """As `read_into`, for at most 1,024 buffers that are filled one after another."""

    def check_unchanged(self) -> None:
        """FileChangedError if the location changed since it was opened."""

    def fileno(self) -> int:
        """The file descriptor, to copy permissions and attributes; FileAccessError if none."""


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
    """Bytes that are not a range of a file: a plain value that any process can read."""

    @property
    def nbytes(self) -> int:
        """The number of bytes."""

    def pieces(self, max_bytes: int) -> Iterator[memoryview]:
        """All bytes in order, in pieces of `max_bytes`, only the last one shorter.

        A piece is valid until the next is asked for. Raises InputError.
        """


@dataclass(frozen=True, slots=True)
class Inline:
    """A stream of bytes that were decoded along with a header."""

    data: bytes

    @property
    def nbytes(self) -> int:
        """See `Stream`."""
        return len(self.data)

    def pieces(self, max_bytes: int) -> Iterator[memoryview]:
        """See `Stream`."""
        view = memoryview(self.data)
        for start in range(0, len(view), max_bytes):
            yield view[start : start + max_bytes]
