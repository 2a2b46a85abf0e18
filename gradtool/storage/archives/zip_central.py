"""The central directory of a zip file: found, parsed and checked by itself.

Everything in it is a claim, compared with the file's size before anything is allocated.
Layout: PKWARE's APPNOTE.TXT, sections 4.3 to 4.5.
"""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple

from gradtool.core.locations import Source
from gradtool.errors import CorruptFileError, UnsupportedFormatError

STORED: Final = 0
DEFLATED: Final = 8

_END: Final = struct.Struct("<4s4H2IH")
_END64: Final = struct.Struct("<4sQ4x2I4Q")
_LOCATOR64: Final = struct.Struct("<4sIQI")
_CENTRAL: Final = struct.Struct("<4s4x2H4x3I4H2x2I")
_EXTRA: Final = struct.Struct("<2H")
_IN_ZIP64_FIELD: Final = 0xFFFFFFFF
ZIP64: Final = 1
_UNICODE_PATH: Final = 0x7075
_UTF8: Final = 0x800
_DOS_DIRECTORY: Final = 0x10
_REFUSED_FLAGS: Final = 0x1 | 0x20 | 0x40
_FLAG_MEANINGS: Final = {0x1: "encrypted", 0x20: "a patch", 0x40: "strongly encrypted"}
# A name, an extra field and a comment follow each of its records, of up to 64 KiB each.
_MAX_RECORD_NBYTES: Final = _CENTRAL.size + 3 * 0xFFFF
_MAX_DIRECTORY_NBYTES: Final = 256 << 20
_METHODS: Final = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstandard", 95: "xz"}


class Record(NamedTuple):
    """What the central directory says of an entry; `place` is where in the file the record is."""

    raw_name: bytes
    name: str
    flags: int
    method: int
    crc32: int
    compressed_nbytes: int
    nbytes: int
    header_offset: int
    place: int


def read_central_directory(source: Source) -> tuple[int, list[Record]]:
    """Where the central directory starts, and its records in their own order."""
    start, nbytes, count = _locate(source)
    directory = source.read(start, nbytes)
    records, position = [], 0
    for _ in range(count):
        if position + _CENTRAL.size > nbytes:
            raise corrupt(source, "the central directory is cut off", start + position)
        record, position = _parse_record(source, start, directory, position)
        records.append(record)
    if position != nbytes:
        problem = f"no entry accounts for {nbytes - position} bytes of the central directory"
        raise corrupt(source, problem, start + position)
    return start, records


def _locate(source: Source) -> tuple[int, int, int]:
    """Where the central directory starts, how many bytes it has, and how many entries it claims."""
    end = _find_end(source)
    claims = list(_END.unpack(source.read(end, _END.size))[1:-1])
    locator = end - _LOCATOR64.size
    if locator >= 0 and source.read(locator, 4) == b"PK\6\7":
        end, claims = _read_end64(source, locator, claims)
    disk, first_disk, count_here, count, nbytes, start = claims
    if disk or first_disk or count_here != count:
        raise corrupt(source, "one part of a multi-disk archive", end)
    if start + nbytes != end:
        problem = f"the central directory is said to end at byte {start + nbytes}, not here"
        raise corrupt(source, problem, end)
    if not count * _CENTRAL.size <= nbytes <= count * _MAX_RECORD_NBYTES:
        problem = f"promises {count} entries in a central directory of {nbytes} bytes"
        raise corrupt(source, problem, end)
    if nbytes > _MAX_DIRECTORY_NBYTES:
        problem = f"a central directory of {nbytes} bytes; gradtool reads {_MAX_DIRECTORY_NBYTES}"
        raise UnsupportedFormatError(source.path, problem, byte=start)
    return start, nbytes, count


def _find_end(source: Source) -> int:
    """Where the end-of-central-directory record is: the one whose comment ends the file."""
    start = max(0, source.file.size - _END.size - 0xFFFF)
    tail = source.read(start, source.file.size - start)
    ends = [
        match.start()
        for match in re.finditer(rb"PK\x05\x06(?=.{18})", tail, re.DOTALL)
        if match.start() + _END.size + _END.unpack_from(tail, match.start())[-1] == len(tail)
    ]
    if not ends:
        problem = "no end-of-central-directory record: truncated or never finished"
        raise corrupt(source, problem, source.file.size)
    # Many readers take the last one that looks like it, wherever its comment ends, and even if it
    # begins within another.
    if tail.find(b"PK\5\6", ends[0] + 1) >= 0:
        problem = "ambiguous archive: two end-of-central-directory records"
        raise corrupt(source, problem, start + ends[0])
    return start + ends[0]


def _read_end64(source: Source, locator: int, claims: list[int]) -> tuple[int, list[int]]:
    """Where the zip64 end record is and what it claims, given the plain one's `claims`."""
    _, disk, end, disks = _LOCATOR64.unpack(source.read(locator, _LOCATOR64.size))
    if end + _END64.size > locator:
        raise corrupt(source, f"the zip64 end record is said to be at byte {end}", locator)
    signature, nbytes, *claims64 = _END64.unpack(source.read(end, _END64.size))
    if signature != b"PK\6\6" or end + 12 + nbytes != locator or disk or disks > 1:
        raise corrupt(source, "the zip64 end record is damaged", end)
    for claim, claim64, largest in zip(
        claims, claims64, (*[0xFFFF] * 4, *[0xFFFFFFFF] * 2), strict=True
    ):
        if claim not in (claim64, largest):
            problem = f"ambiguous archive: one end record says {claim}, the other {claim64}"
            raise corrupt(source, problem, end)
    return end, claims64


def _parse_record(
    source: Source, start: int, directory: bytes, position: int
) -> tuple[Record, int]:
    """The record at `position` in the directory, and the position of the next one.

    The directory starts at byte `start` of the file.
    """
    signature, flags, method, crc32, *numbers, offset = _CENTRAL.unpack_from(directory, position)
    compressed_nbytes, nbytes, name_nbytes, extra_nbytes, comment_nbytes, disk, attributes = numbers
    place = start + position
    name_end = position + _CENTRAL.size + name_nbytes
    extra_end = name_end + extra_nbytes
    if signature != b"PK\1\2" or extra_end + comment_nbytes > len(directory):
        raise corrupt(source, "the central directory is damaged", place)
    raw_name = directory[name_end - name_nbytes : name_end]
    name = _decode_name(source, raw_name, flags, place)
    extra = directory[name_end:extra_end]
    if extra:
        _check_extra(source, extra, place, name)
    sizes = widened(extra, nbytes, compressed_nbytes, offset)
    if sizes is None:
        raise corrupt(source, "no valid zip64 field for its sizes", place, name)
    nbytes, compressed_nbytes, offset = sizes
    if disk:
        raise corrupt(source, "lies on another disk of a multi-disk archive", place, name)
    if nbytes and (name.endswith("/") or attributes & _DOS_DIRECTORY):
        # torch's reader leaves a directory's bytes unread, and its memory as it was.
        raise corrupt(source, f"said to be a directory, and holds {nbytes} bytes", place, name)
    record = Record(raw_name, name, flags, method, crc32, compressed_nbytes, nbytes, offset, place)
    if flags & _REFUSED_FLAGS or method != STORED or compressed_nbytes != nbytes:
        _refuse_undecodable(source, record)
    return record, extra_end + comment_nbytes


def _check_extra(source: Source, extra: bytes, place: int, name: str) -> None:
    fields = extra_fields(extra)
    if fields is None:
        raise corrupt(source, "its extra fields are cut off", place, name)
    if any(kind == _UNICODE_PATH for kind, _ in fields):
        # Newer Pythons take the name from that field, and other readers do not.
        raise corrupt(source, "ambiguous archive: a second name in its extra field", place, name)


def _decode_name(source: Source, raw_name: bytes, flags: int, place: int) -> str:
    """An entry's name, decoded; CorruptFileError for one that could lead out of a directory."""
    try:
        name = raw_name.decode("utf-8" if flags & _UTF8 or raw_name.isascii() else "cp437")
    except UnicodeDecodeError as error:
        name = raw_name.decode("utf-8", "backslashreplace")
        raise corrupt(source, "a name that says it is UTF-8, and is not", place, name) from error
    parts = name.replace("\\", "/").split("/")
    if not parts[0] or (parts[0].endswith(":") and len(parts) > 1):
        raise corrupt(source, "an empty or absolute name", place, name)
    if "\0" in name or ".." in parts:
        raise corrupt(source, "ambiguous archive: a name with NUL or '..' in it", place, name)
    return name


def extra_fields(extra: bytes) -> list[tuple[int, bytes]] | None:
    """The (kind, content) of each extra field; None where the last one is cut off.

    Up to three bytes may be left over, as readers allow.
    """
    fields, end = [], 0
    while end + _EXTRA.size <= len(extra):
        kind, nbytes = _EXTRA.unpack_from(extra, end)
        end += _EXTRA.size + nbytes
        fields.append((kind, extra[end - nbytes : end]))
    return fields if end <= len(extra) else None


def widened(extra: bytes, *values: int) -> tuple[int, ...] | None:
    """`values`, with saturated ones taken from the zip64 field of `extra`; None if that is bad."""
    if _IN_ZIP64_FIELD not in values:
        return values
    missing = values.count(_IN_ZIP64_FIELD)
    fields = [content for kind, content in extra_fields(extra) or () if kind == ZIP64]
    if len(fields) != 1 or len(fields[0]) < 8 * missing:
        return None
    wide = iter(struct.unpack_from(f"<{missing}Q", fields[0]))
    return tuple([next(wide) if value == _IN_ZIP64_FIELD else value for value in values])


def _refuse_undecodable(source: Source, record: Record) -> None:
    """Refuse entries that need a key or another decompressor, or whose sizes contradict it."""
    for flag, meaning in _FLAG_MEANINGS.items():
        if record.flags & flag:
            problem = f"flag 0x{flag:x} says that it is {meaning}"
            raise corrupt(source, problem, record.place, record.name)
    if record.method not in (STORED, DEFLATED):
        method = _METHODS.get(record.method, "unknown")
        raise UnsupportedFormatError(
            source.path,
            f"compressed by method {record.method} ({method}); only stored and deflate are read",
            tensor=record.name,
            byte=record.place,
        )
    if record.method == STORED and record.compressed_nbytes != record.nbytes:
        problem = f"stored, and takes {record.compressed_nbytes} bytes for {record.nbytes}"
        raise corrupt(source, problem, record.place, record.name)


def corrupt(source: Source, problem: str, byte: int, name: str | None = None) -> CorruptFileError:
    """The error for a problem at `byte`, in the entry `name` if that is known."""
    return CorruptFileError(source.path, problem, tensor=name, byte=byte)
