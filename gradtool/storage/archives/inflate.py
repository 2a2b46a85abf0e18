"""Members of archives, deflated ones above all, as streams in bounded memory.

A megabyte of deflate can hold a gigabyte: the size that an archive claims is never allocated at
once, and never exceeded.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gradtool.core.locations import Location, Source
from gradtool.errors import CorruptFileError
from gradtool.storage.archives.zip import STORED, Entry

_READ_NBYTES: Final = 1 << 16
_START_NBYTES: Final = 1 << 10
_PIECE_NBYTES: Final = 1 << 18
# Zip members are raw deflate: no zlib header, no Adler-32.
_RAW: Final = -zlib.MAX_WBITS


@dataclass(frozen=True, slots=True)
class Inflated:
    """A stream: an entry of `file`, deflated or stored, without its first `skip` bytes."""

    file: Location
    entry: Entry
    skip: int

    @property
    def nbytes(self) -> int:
        """See `Stream`."""
        return self.entry.nbytes - self.skip

    def pieces(self, max_bytes: int) -> Iterator[memoryview]:
        """See `Stream`; raises as `inflate`."""
        return inflate(self.file, self.entry, self.skip, max_bytes=max_bytes)


def inflate(file: Location, entry: Entry, skip: int, *, max_bytes: int) -> Iterator[memoryview]:
    """The bytes of an entry of `file`, deflated or stored, without the first `skip` of them.

    Yields pieces of `max_bytes`, only the last one shorter, all in one buffer: a piece is valid
    until the next is asked for. The last piece comes only once the stream's length and CRC-32 are
    what the archive says, and the file is unchanged.

    Raises:
        CorruptFileError: the stream is damaged, or not of the length or CRC-32 in the archive.
        FileChangedError: the file is not the one that was catalogued, or changed meanwhile.
    """
    buffer = memoryview(bytearray(min(max_bytes, max(entry.nbytes - skip, 0))))
    filled = 0
    with file.open() as source:
        for piece in _checked_pieces(source, entry):
            rest = memoryview(piece)[skip:]
            skip = max(skip - len(piece), 0)
            while rest:
                if filled == len(buffer):
                    yield buffer
                    filled = 0
                taken = min(len(rest), len(buffer) - filled)
                buffer[filled : filled + taken] = rest[:taken]
                filled += taken
                rest = rest[taken:]
    if filled:
        yield buffer[:filled]


def inflate_start(source: Source, entry: Entry, nbytes: int) -> bytes:
    """The first `nbytes` bytes of an entry, or fewer where it holds no more.

    Reads little more than it needs, and checks neither length nor CRC-32.
    """
    if entry.method == STORED:
        return source.read(entry.offset, min(nbytes, entry.nbytes))
    decoder = zlib.decompressobj(_RAW)
    data = b""
    position, end = entry.offset, entry.offset + entry.compressed_nbytes
    while len(data) < nbytes and position < end and not decoder.eof:
        # Before its first byte a block may have half a kilobyte of code tables.
        compressed = source.read(position, min(_START_NBYTES, end - position))
        position += len(compressed)
        data += _decompress(decoder, compressed, nbytes - len(data), source, entry)
    return data


def _checked_pieces(source: Source, entry: Entry) -> Iterator[bytes]:
    """The bytes of an entry, and at their end an error unless length, CRC-32 and file are right."""
    crc32 = 0
    for piece in (_stored if entry.method == STORED else _inflated)(source, entry):
        crc32 = zlib.crc32(piece, crc32)
        yield piece
    if crc32 != entry.crc32:
        problem = f"CRC mismatch: the archive says {entry.crc32:08x}, its bytes give {crc32:08x}"
        raise _corrupt(source, problem, entry)
    source.check_unchanged()


def _stored(source: Source, entry: Entry) -> Iterator[bytes]:
    for done in range(0, entry.nbytes, _PIECE_NBYTES):
        yield source.read(entry.offset + done, min(_PIECE_NBYTES, entry.nbytes - done))


def _inflated(source: Source, entry: Entry) -> Iterator[bytes]:
    decoder = zlib.decompressobj(_RAW)
    position, end = entry.offset, entry.offset + entry.compressed_nbytes
    total = 0
    while not decoder.eof:
        compressed = decoder.unconsumed_tail
        if not compressed:
            compressed = source.read(position, min(_READ_NBYTES, end - position))
            position += len(compressed)
        # One byte more than is due would show that there are too many.
        most = min(_PIECE_NBYTES, entry.nbytes - total + 1)
        piece = _decompress(decoder, compressed, most, source, entry)
        total += len(piece)
        if total > entry.nbytes:
            raise _corrupt(source, f"promises {entry.nbytes} bytes, holds more", entry)
        if not (piece or compressed or decoder.eof):
            raise _corrupt(source, f"its deflate stream is cut off after {total} bytes", entry)
        yield piece
    if decoder.unused_data or position < end:
        raise _corrupt(source, "its deflate stream ends before its compressed bytes do", entry)
    if total < entry.nbytes:
        raise _corrupt(source, f"promises {entry.nbytes} bytes, holds {total}", entry)


def _decompress(
    decoder: zlib._Decompress, compressed: bytes, most: int, source: Source, entry: Entry
) -> bytes:
    try:
        return decoder.decompress(compressed, most)
    except zlib.error as error:
        raise _corrupt(source, f"its deflate stream is damaged: {error}", entry) from error


def _corrupt(source: Source, problem: str, entry: Entry) -> CorruptFileError:
    return CorruptFileError(source.path, problem, tensor=entry.name, byte=entry.offset)
