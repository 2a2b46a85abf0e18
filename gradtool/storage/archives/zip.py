"""Zip directories, read so that they can be understood in one way only.

A zip file says everything twice, in its central directory and in a local header before each entry,
and readers differ in which they believe: one sees entries that another misses. Here the two must
agree, entries may neither overlap nor repeat, and together they account for every byte of the
file. Layout: PKWARE's APPNOTE.TXT, sections 4.3 to 4.5.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from gradtool.core.locations import Source
from gradtool.storage.archives.zip_central import (
    DEFLATED,
    STORED,
    Record,
    corrupt,
    read_central_directory,
    widened,
)

__all__ = ["DEFLATED", "STORED", "Entry", "read_directory"]

_LOCAL: Final = struct.Struct("<4s2x2H4x3I2H")
_CENTRAL_CRC_AT: Final = 16
_LOCAL_CRC_AT: Final = 14
_DESCRIPTORS: Final = {  # by length: the signature is optional, sizes take 4 or 8 bytes
    12: struct.Struct("<3I"),
    16: struct.Struct("<4s3I"),
    20: struct.Struct("<I2Q"),
    24: struct.Struct("<4sI2Q"),
}
_HAS_DESCRIPTOR: Final = 0x8
# Read along with each local header: NumPy's zip64 field has 20 bytes, torch's padding up to 67.
_USUAL_EXTRA: Final = 72
_PAGE: Final = 4096
_START_NBYTES: Final = 6  # of an array: b"\x93NUMPY"


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of an archive, checked; sizes in bytes, offsets from the file's start.

    Attributes:
        raw_name: as it is stored, which is what torch's reader compares.
        start: the first bytes of the data as they are stored, up to six.
        method: `STORED` or `DEFLATED`.
        crc32: of the uncompressed bytes; 0 where the writer computed none.
        compressed_nbytes: what the data takes in the file, from `offset` on.
        nbytes: what the archive says the data is once uncompressed.
        header_offset: where the local header starts.
        offset: where the data starts.
        crc_places: where the four bytes of `crc32` are stored.
    """

    name: str
    raw_name: bytes
    start: bytes
    method: int
    crc32: int
    compressed_nbytes: int
    nbytes: int
    header_offset: int
    offset: int
    crc_places: tuple[int, ...]


def read_directory(source: Source) -> tuple[Entry, ...]:
    """All entries of the archive, in file order.

    Raises:
        CorruptFileError: truncated, contradicting itself or open to two readings.
        UnsupportedFormatError: an entry is compressed by another method than deflate.
    """
    start, records = read_central_directory(source)
    _refuse_duplicates(source, records)
    records.sort(key=lambda record: record.header_offset)
    first, *limits = (*(min(record.header_offset, start) for record in records), start)
    if first != 0:
        raise corrupt(source, f"no entry of the archive accounts for its first {first} bytes", 0)
    window = _Window(source)
    return tuple([_read_entry(window, *pair) for pair in zip(records, limits, strict=True)])


class _Window:
    """Reads of a file in ascending order, most of them from the page that was read last.

    A page holds a data descriptor and the local header after it, and dozens of small entries.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._start = 0
        self._bytes = b""

    def read(self, offset: int, nbytes: int) -> bytes:
        """`nbytes` bytes from `offset`, which the file must hold."""
        start = offset - self._start
        if start < 0 or start + nbytes > len(self._bytes):
            remaining = self.source.file.size - offset
            self._bytes = self.source.read(offset, max(nbytes, min(remaining, _PAGE)))
            self._start, start = offset, 0
        return self._bytes[start : start + nbytes]


def _refuse_duplicates(source: Source, records: list[Record]) -> None:
    """Refuse two entries of one name, decoded or raw: readers differ in which of them they take."""
    seen: dict[str | bytes, str] = {}
    for record in records:
        for key in (record.name, record.raw_name):
            if key in seen:
                problem = f"ambiguous archive: duplicate of entry {seen[key]!r:.80}"
                raise corrupt(source, problem, record.place, record.name)
            seen[key] = record.name


def _read_entry(window: _Window, record: Record, limit: int) -> Entry:
    """The entry whose bytes, from local header to data descriptor, end at `limit`."""
    start = record.header_offset
    extra_at = _LOCAL.size + len(record.raw_name)
    if start + extra_at > limit:
        raise corrupt(window.source, "overlaps what follows it", start, record.name)
    header = window.read(start, min(extra_at + _USUAL_EXTRA, limit - start))
    *fields, crc32, compressed_nbytes, nbytes, name_nbytes, extra_nbytes = _LOCAL.unpack_from(
        header
    )
    offset = start + extra_at + extra_nbytes
    end = offset + record.compressed_nbytes
    if end > limit:
        raise corrupt(
            window.source, f"overlaps what follows it at byte {limit}", start, record.name
        )
    name = header[_LOCAL.size : _LOCAL.size + name_nbytes]
    extra = header[extra_at : extra_at + extra_nbytes]
    if len(extra) < extra_nbytes:
        extra = window.read(start + extra_at, extra_nbytes)
    sizes = widened(extra, nbytes, compressed_nbytes) or (nbytes, compressed_nbytes)
    _compare(window, record, (*fields, name, crc32, *sizes))
    places = [record.place + _CENTRAL_CRC_AT]
    if crc32 or not record.flags & _HAS_DESCRIPTOR:
        places.append(start + _LOCAL_CRC_AT)
    if end < limit:
        places.append(_find_descriptor_crc(window, record, end, limit - end))
    return Entry(
        record.name,
        record.raw_name,
        window.read(offset, min(_START_NBYTES, record.compressed_nbytes)),
        record.method,
        record.crc32,
        record.compressed_nbytes,
        record.nbytes,
        start,
        offset,
        tuple(places),
    )


def _compare(window: _Window, record: Record, local: tuple[object, ...]) -> None:
    """Refuse a local header that differs from the record of the central directory.

    Where there is a data descriptor, the header's CRC and sizes may be 0.
    """
    central = (
        b"PK\3\4",
        record.flags,
        record.method,
        record.raw_name,
        record.crc32,
        record.nbytes,
        record.compressed_nbytes,
    )
    deferred = record.flags & _HAS_DESCRIPTOR
    if local == central or (deferred and local == (*central[:4], 0, 0, 0)):
        return
    names = ("signature", "flags", "method", "name", "CRC", "size", "compressed size")
    optional = names[4:] if deferred else ()
    for name, value, expected in zip(names, local, central, strict=True):
        if value != expected and not (value == 0 and name in optional):
            problem = _disagreement(name, value, expected)
            raise corrupt(window.source, problem, record.header_offset, record.name)


def _find_descriptor_crc(window: _Window, record: Record, start: int, nbytes: int) -> int:
    """Where the CRC is in the data descriptor, which takes `nbytes` bytes from `start` on."""
    layout = _DESCRIPTORS.get(nbytes)
    if layout is None or not record.flags & _HAS_DESCRIPTOR:
        raise corrupt(
            window.source, f"no entry accounts for the {nbytes} bytes after it", start, record.name
        )
    *signature, crc32, compressed_nbytes, size = layout.unpack(window.read(start, nbytes))
    values = (crc32, compressed_nbytes, size)
    expected = (record.crc32, record.compressed_nbytes, record.nbytes)
    if signature not in ([], [b"PK\7\10"]) or values != expected:
        problem = _disagreement("data descriptor", values, expected)
        raise corrupt(window.source, problem, start, record.name)
    return start + 4 * len(signature)


def _disagreement(field: str, value: object, expected: object) -> str:
    return f"ambiguous archive: {field} {value!r} here, {expected!r} in the central directory"
