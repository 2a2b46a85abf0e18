"""Zip archives put together by hand, every field of them at will."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    """An entry written by hand. `local` and `central` override fields of one header only."""

    name: bytes = b"w.npy"
    data: bytes = b"gradient"
    flags: int = 0
    method: int = 0
    nbytes: int | None = None
    disk: int = 0
    attributes: int = 0
    descriptor: bytes = b""
    local: tuple[tuple[str, object], ...] = ()
    central: tuple[tuple[str, object], ...] = ()

    def fields(self, overrides: tuple[tuple[str, object], ...]) -> dict:
        return {
            "signature": b"",
            "flags": self.flags,
            "method": self.method,
            "crc": zlib.crc32(self.data),
            "csize": len(self.data),
            "size": len(self.data) if self.nbytes is None else self.nbytes,
            "name": self.name,
            "extra": b"",
            "offset": None,
        } | dict(overrides)

    def local_bytes(self) -> bytes:
        has = self.fields(self.local)
        header = struct.pack(
            "<4s5H3I2H",
            has["signature"] or b"PK\3\4",
            *(20, has["flags"], has["method"], 0, 33),
            *(has["crc"], has["csize"], has["size"]),
            *(len(has["name"]), len(has["extra"])),
        )
        return header + has["name"] + has["extra"] + self.data + self.descriptor

    def central_bytes(self, offset: int) -> bytes:
        has = self.fields(self.central)
        header = struct.pack(
            "<4s6H3I5H2I",
            has["signature"] or b"PK\1\2",
            *(20, 20, has["flags"], has["method"], 0, 33),
            *(has["crc"], has["csize"], has["size"]),
            *(len(has["name"]), len(has["extra"]), 0, self.disk, 0, self.attributes),
            offset if has["offset"] is None else has["offset"],
        )
        return header + has["name"] + has["extra"]


def end_record(
    count: int, nbytes: int, offset: int, comment: bytes = b"", disk: int = 0, here: int = -1
) -> bytes:
    here = count if here < 0 else here
    return (
        struct.pack("<4s4H2IH", b"PK\5\6", disk, disk, here, count, nbytes, offset, len(comment))
        + comment
    )


def end64(start: int, count: int, nbytes: int, offset: int) -> bytes:
    """A zip64 end record that lies at `start`, and its locator."""
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, nbytes, offset)
    return record + struct.pack("<4sIQI", b"PK\6\7", 0, start, 1)


def archive(*members: Member, gap: bytes = b"", before_end: bytes = b"", **end: object) -> bytes:
    """The members, `gap` after each, the central directory and the end record."""
    body, central = b"", b""
    for member in members:
        central += member.central_bytes(len(body))
        body += member.local_bytes() + gap
    claims = {"count": len(members), "nbytes": len(central), "offset": len(body)} | end
    return body + central + before_end + end_record(**claims)
