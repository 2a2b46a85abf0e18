"""Zip archives taken apart into every field that a reader may believe, and put together again.

Whatever is not overridden is made to fit: offsets, lengths, CRCs, counts. Layout: PKWARE's
APPNOTE.TXT, sections 4.3 to 4.5; padding of torch's records: caffe2/serialize/inline_container.cc.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any, Final

STORED: Final = 0
DEFLATED: Final = 8
UTF8: Final = 0x800
DEFERRED: Final = 0x8
"""The flag for sizes and CRC that follow the data."""

_LOCAL: Final = struct.Struct("<4s5H3I2H")
_CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
_END: Final = struct.Struct("<4s4H2IH")
_MAX32: Final = 0xFFFFFFFF


@dataclass
class Member:
    """An entry: what it holds, and how its two headers say so.

    Attributes:
        align: what its data's offset is a multiple of, by padding as torch's.
        zip64: whether the sizes of the local header are in an extra field.
        descriptor: the data descriptor's length, with its signature or without; 0 for none.
        local: fields of the local header that say otherwise than they should.
        central: the same for the record in the central directory.
        crc: the checksum that all places say; the right one if None.
        packed: the bytes in the file, where they are not `data` as `method` packs it.
        is_listed: whether the central directory names it.
        header_of: the member whose local header the central record points to; its own if None.
    """

    name: bytes
    data: bytes
    method: int = STORED
    flags: int = 0
    align: int = 0
    zip64: bool = False
    descriptor: int = 0
    local_extra: bytes = b""
    central_extra: bytes = b""
    comment: bytes = b""
    versions: tuple[int, int] = (20, 20)
    stamp: tuple[int, int] = (0, 33)
    attributes: tuple[int, int] = (0, 0)
    local: dict[str, Any] = field(default_factory=dict)
    central: dict[str, Any] = field(default_factory=dict)
    crc: int | None = None
    packed: bytes | None = None
    is_listed: bool = True
    header_of: Member | None = None

    def fields(self) -> dict[str, Any]:
        """What both headers ought to say."""
        packed = self.in_file()
        return {
            "flags": self.flags,
            "method": self.method,
            "crc": zlib.crc32(self.data) if self.crc is None else self.crc,
            "csize": len(packed),
            "size": len(self.data),
            "name": self.name,
        }

    def in_file(self) -> bytes:
        """The member's bytes in the file."""
        if self.packed is not None:
            return self.packed
        if self.method != DEFLATED:
            return self.data
        encoder = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        return encoder.compress(self.data) + encoder.flush()


@dataclass
class Archive:
    """Members in file order, and everything around them.

    Attributes:
        order: positions of members in the central directory's order.
        end: fields of the end record that say otherwise than they should.
        end64: the same for a zip64 end record; None where there is no such record.
        prefix, before_directory, before_end, suffix: bytes that belong to nobody.
    """

    members: list[Member]
    order: list[int] | None = None
    comment: bytes = b""
    end: dict[str, int] = field(default_factory=dict)
    end64: dict[str, int] | None = None
    prefix: bytes = b""
    before_directory: bytes = b""
    before_end: bytes = b""
    suffix: bytes = b""
    is_shifted: bool = True
    """Whether offsets count the prefix."""


def build(archive: Archive) -> bytes:
    """The archive's bytes."""
    body = bytearray(archive.prefix)
    base = 0 if archive.is_shifted else len(archive.prefix)
    places: dict[int, int] = {}
    for member in archive.members:
        if member.header_of is None:
            places[id(member)] = len(body) - base
            body += _local_bytes(member, len(body))
    body += archive.before_directory
    start = len(body)
    order = range(len(archive.members)) if archive.order is None else archive.order
    listed = [archive.members[at] for at in order if at < len(archive.members)]
    listed = [member for member in listed if member.is_listed]
    for member in listed:
        owner = member if member.header_of is None else member.header_of
        body += _central_bytes(member, places.get(id(owner), 0))
    facts = {
        "disk": 0, "first_disk": 0, "count_here": len(listed), "count": len(listed),
        "nbytes": len(body) - start, "start": start - base,
    }  # fmt: skip
    body += archive.before_end
    if archive.end64 is not None:
        body += _end64_bytes(facts | archive.end64, len(body) - base)
    facts = facts | archive.end
    comment_nbytes = facts.pop("comment", len(archive.comment))
    body += _END.pack(b"PK\5\6", *(_clip(value, 16) for value in list(facts.values())[:4]),
                      *(_clip(value, 32) for value in list(facts.values())[4:]),
                      _clip(comment_nbytes, 16))  # fmt: skip
    return bytes(body + archive.comment + archive.suffix)


def _clip(value: int, bits: int) -> int:
    return value & ((1 << bits) - 1)


def _local_bytes(member: Member, at: int) -> bytes:
    says = member.fields()
    extra = member.local_extra
    if member.zip64:
        extra = struct.pack("<2H2Q", 1, 16, says["size"], says["csize"]) + extra
        says |= {"csize": _MAX32, "size": _MAX32}
    if member.flags & DEFERRED:
        says["crc"] = 0
        if not member.zip64:
            says |= {"csize": 0, "size": 0}
    says |= member.local
    if member.align:
        start = at + _LOCAL.size + len(says["name"]) + len(extra) + 4
        padding = -start % member.align
        extra += b"FB" + struct.pack("<H", padding) + b"Z" * padding
    extra = says.get("extra", extra)
    header = _LOCAL.pack(
        says.get("signature", b"PK\3\4"), says.get("version", member.versions[1]),
        _clip(says["flags"], 16), _clip(says["method"], 16), *member.stamp,
        _clip(says["crc"], 32), _clip(says["csize"], 32), _clip(says["size"], 32),
        _clip(says.get("name_nbytes", len(says["name"])), 16),
        _clip(says.get("extra_nbytes", len(extra)), 16),
    )  # fmt: skip
    return header + says["name"] + extra + member.in_file() + _descriptor_bytes(member)


def _descriptor_bytes(member: Member) -> bytes:
    says = member.fields()
    if "descriptor" in member.local:
        says |= member.local["descriptor"]
    numbers = [_clip(says[key], 32) for key in ("crc", "csize", "size")]
    layout = {0: "", 12: "<3I", 16: "<4s3I", 20: "<I2Q", 24: "<4sI2Q"}[member.descriptor]
    signed = [b"PK\7\10"] if "4s" in layout else []
    return struct.pack(layout, *signed, *numbers) if layout else b""


def _central_bytes(member: Member, at: int) -> bytes:
    says = {**member.fields(), "offset": at, "extra": member.central_extra, **member.central}
    header = _CENTRAL.pack(
        says.get("signature", b"PK\1\2"), says.get("made", member.versions[0]),
        says.get("version", member.versions[1]), _clip(says["flags"], 16),
        _clip(says["method"], 16), *member.stamp, _clip(says["crc"], 32),
        _clip(says["csize"], 32), _clip(says["size"], 32),
        _clip(says.get("name_nbytes", len(says["name"])), 16), len(says["extra"]),
        len(member.comment), says.get("disk", 0), says.get("internal", member.attributes[0]),
        says.get("external", member.attributes[1]), _clip(says["offset"], 32),
    )  # fmt: skip
    return header + says["name"] + says["extra"] + member.comment


def _end64_bytes(says: dict[str, int], at: int) -> bytes:
    numbers = (says["count_here"], says["count"], says["nbytes"], says["start"])
    record = struct.pack(
        "<4sQ2H2I4Q", b"PK\6\6", says.get("size64", 44), says.get("made64", 0x31E), 45,
        says["disk"], says["first_disk"], *(_clip(number, 64) for number in numbers),
    )  # fmt: skip
    locator = ("<4sIQI", b"PK\6\7", 0, _clip(says.get("end64", at), 64), says.get("disks", 1))
    return record + struct.pack(*locator)


def parse(data: bytes) -> Archive:
    """The archive that a real writer made of stored and deflated members."""
    *_, count, _, start, _ = _END.unpack_from(data, data.rindex(b"PK\5\6"))
    members, places, at = [], [], start
    if start == _MAX32:
        start = int.from_bytes(data[data.rindex(b"PK\6\6") + 48 :][:8], "little")
    for _ in range(count):
        found, place, at = _parse_member(data, at)
        members.append(found)
        places.append(place)
    in_file = sorted(range(count), key=places.__getitem__)
    order = [in_file.index(at) for at in range(count)]
    end = data.rindex(b"PK\5\6")
    return Archive(
        [members[at] for at in in_file],
        order=None if order == sorted(order) else order,
        comment=data[end + _END.size :],
        end64={} if data[end - 20 :].startswith(b"PK\6\7") else None,
    )


def _alignment(start: int) -> int:
    """What torch aligned data to that starts there: 64, unless it was asked for less."""
    return 64 if start % 64 == 0 else 1


def _parse_member(data: bytes, at: int) -> tuple[Member, int, int]:
    _, made, version, flags, method, *numbers = _CENTRAL.unpack_from(data, at)
    time, date, crc, csize, size, lengths, extra, comment, _, internal, external, place = numbers
    name_end = at + _CENTRAL.size + lengths
    raw_name = data[name_end - lengths : name_end]
    local = _LOCAL.unpack_from(data, place)
    local_end = place + _LOCAL.size + local[-2] + local[-1]
    local_extra = data[local_end - local[-1] : local_end]
    packed = data[local_end : local_end + csize]
    content = packed if method == STORED else zlib.decompress(packed, -zlib.MAX_WBITS)
    after = data[local_end + csize :][:24]
    has_descriptor = bool(flags & DEFERRED)
    is_wide = local_extra.startswith(b"\1\0") and local[-3] == _MAX32
    rest_extra = local_extra[20:] if is_wide else local_extra
    member = Member(
        raw_name, content, method, flags,
        align=_alignment(local_end) if rest_extra.startswith(b"FB") else 0,
        zip64=is_wide,
        descriptor=(16 if after.startswith(b"PK\7\10") else 12) if has_descriptor else 0,
        local_extra=b"" if rest_extra.startswith(b"FB") else rest_extra,
        central_extra=data[name_end : name_end + extra],
        comment=data[name_end + extra : name_end + extra + comment],
        versions=(made, version), stamp=(time, date),
        attributes=(internal, external),
    )  # fmt: skip
    if crc != zlib.crc32(content):
        member.crc = crc
    if local[1] != version:
        member.local["version"] = local[1]
    assert len(content) == size
    return member, place, name_end + extra + comment
