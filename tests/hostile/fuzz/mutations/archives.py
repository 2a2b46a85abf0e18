"""Changes to an archive: to what its members hold, and to each field that a reader may believe."""

from __future__ import annotations

import copy
import random
import struct
from collections.abc import Callable
from typing import Final

from fuzz.files.poison import spoiled
from fuzz.files.zips import DEFERRED, DEFLATED, STORED, UTF8, Archive, Member, build

Mutation = Callable[[Archive, random.Random], None]
_MAX32: Final = 0xFFFFFFFF


def _twin(member: Member, rng: random.Random) -> Member:
    """The member again, with other numbers in it."""
    twin = copy.deepcopy(member)
    twin.data = spoiled(rng, twin.data) if rng.random() < 0.7 else twin.data
    return twin


def duplicate(archive: Archive, rng: random.Random) -> None:
    """A member twice: by the same name, or by one that some readers take for the same."""
    member = rng.choice(archive.members)
    twin = _twin(member, rng)
    name = member.name
    twin.name = rng.choice(
        (name, name.upper(), name.swapcase(), name.removesuffix(b".npy"), name + b".npy",
         name + b" ", name + b".", name + b"\0", name + b"\0x", name.replace(b"/", b"\\"),
         b"./" + name, name.replace(b"/", b"//", 1), name.replace(b"/", b"/./", 1), name + b"/")
    )  # fmt: skip
    if rng.random() < 0.3:
        twin.flags ^= UTF8
    archive.members.insert(rng.randrange(len(archive.members) + 1), twin)
    archive.order = None


def rename(archive: Archive, rng: random.Random) -> None:
    """A member by another name, in both headers."""
    member = rng.choice(archive.members)
    other = rng.choice(archive.members).name
    member.name = rng.choice(
        (other, member.name.upper(), "é.npy".encode(), b"\x82.npy", b"\xff", b"", b"a" * 300,
         member.name + b".npy", member.name.removesuffix(b".npy"), b"../" + member.name,
         b"/" + member.name, member.name.replace(b"/", b"\\"), b"C:" + member.name, b"nul\0x")
    )  # fmt: skip


def flip_utf8(archive: Archive, rng: random.Random) -> None:
    rng.choice(archive.members).flags ^= UTF8


def shuffle_members(archive: Archive, rng: random.Random) -> None:
    rng.shuffle(archive.members)


def shuffle_directory(archive: Archive, rng: random.Random) -> None:
    archive.order = rng.sample(range(len(archive.members)), len(archive.members))


def repeat_in_directory(archive: Archive, rng: random.Random) -> None:
    count = len(archive.members)
    archive.order = [*range(count), rng.randrange(count)]


def hide(archive: Archive, rng: random.Random) -> None:
    """A member that no record of the directory names."""
    twin = _twin(rng.choice(archive.members), rng)
    twin.is_listed = False
    archive.members.insert(rng.randrange(len(archive.members) + 1), twin)
    archive.order = None


def redirect(archive: Archive, rng: random.Random) -> None:
    """A record of the directory that points to another member's header."""
    member = rng.choice(archive.members)
    twin = copy.deepcopy(member)
    twin.header_of = rng.choice(archive.members)
    if rng.random() < 0.5:
        twin.name = rng.choice((twin.header_of.name, member.name + b"2"))
        twin.data = twin.header_of.data
    archive.members.append(twin)
    archive.order = None


def change_field(archive: Archive, rng: random.Random) -> None:
    """One header of a member says otherwise."""
    member = rng.choice(archive.members)
    place = rng.choice((member.local, member.central))
    size, crc = len(member.data), member.fields()["crc"]
    field, value = rng.choice(
        (("size", size + 1), ("csize", max(size - 1, 0)), ("size", 0), ("crc", 0), ("crc", crc ^ 1),
         ("flags", member.flags ^ (1 << rng.randrange(16))), ("method", rng.choice((0, 8, 12, 99))),
         ("name", member.name + b"x"), ("name", b"y" * len(member.name)),
         ("name_nbytes", len(member.name) + rng.choice((-1, 1))), ("version", 63),
         ("extra_nbytes", rng.choice((4, 8))), ("signature", b"PK\3\5"))
    )  # fmt: skip
    place[field] = value


def change_both(archive: Archive, rng: random.Random) -> None:
    """Both headers of a member say otherwise, alike."""
    member = rng.choice(archive.members)
    size = len(member.data)
    field, value = rng.choice(
        (("crc", 0), ("size", size + 4), ("size", max(size - 4, 0)), ("method", 12),
         ("version", 10), ("flags", member.flags ^ (1 << rng.randrange(16))))
    )  # fmt: skip
    member.local[field] = member.central[field] = value


def change_attributes(archive: Archive, rng: random.Random) -> None:
    """What only the directory says: attributes, disks, who made it, a comment."""
    member = rng.choice(archive.members)
    kind = rng.randrange(7)
    if kind == 0:
        member.attributes = (rng.randrange(4), 1 << rng.randrange(32))
    elif kind in (1, 6):
        member.attributes = (0, 0x10)
    elif kind == 2:
        member.central["disk"] = 1
    elif kind == 3:
        member.versions = (rng.choice((0, 20, 45, 0x314, 0xFFFF)), rng.choice((10, 20, 45, 63)))
    elif kind == 4:
        member.comment = rng.choice((b"comment", b"PK\5\6" + bytes(18)))
    else:
        member.stamp = rng.choice(((0, 0), (0xFFFF, 0xFFFF)))


def change_extra(archive: Archive, rng: random.Random) -> None:
    """Extra fields: zip64's with or without need, others' names for the file, padding."""
    member = rng.choice(archive.members)
    size = len(member.data)
    extra = rng.choice(
        (struct.pack("<2H2Q", 1, 16, size, size), struct.pack("<2HQ", 1, 8, size + 4), b"",
         struct.pack("<2H3Q", 1, 24, size, size, 0), struct.pack("<2H", 1, 0), b"\x99",
         struct.pack("<2HBI", 0x7075, 9, 1, 0) + b"name", b"FB\4\0ZZZZ", b"PK\5\6" + bytes(18))
    )  # fmt: skip
    if rng.random() < 0.5:
        member.central_extra = extra
    else:
        member.local_extra, member.align = extra, rng.choice((0, member.align))


def widen(archive: Archive, rng: random.Random) -> None:
    """Sizes in a zip64 field of the directory, which tells the truth or not."""
    member = rng.choice(archive.members)
    size = len(member.data)
    claimed = rng.choice((size, size, size + 1, size + 4096))
    member.central |= {"size": _MAX32, "csize": _MAX32}
    member.central["extra"] = struct.pack("<2H2Q", 1, 16, claimed, claimed)
    member.zip64 = rng.random() < 0.5


def change_packing(archive: Archive, rng: random.Random) -> None:
    """Stored or deflated, sizes before the data or after it, aligned or not."""
    member = rng.choice(archive.members)
    kind = rng.randrange(5)
    if kind == 0:
        member.method = STORED if member.method == DEFLATED else DEFLATED
    elif kind == 1:
        member.flags |= DEFERRED
        member.descriptor = rng.choice((12, 16, 20, 24))
    elif kind == 2:
        member.flags &= ~DEFERRED
        member.descriptor = 0
    elif kind == 3:
        member.zip64 = not member.zip64
    else:
        member.align = rng.choice((0, 1, 16, 64))


def change_data(archive: Archive, rng: random.Random) -> None:
    """Data that fits its headers no longer: CRCs, sizes, bytes in between."""
    member = rng.choice(archive.members)
    kind = rng.randrange(4)
    if kind == 0:
        member.crc = rng.choice((0, 1, member.fields()["crc"] ^ 0xFF))
    elif kind == 1:
        member.packed = spoiled(rng, member.in_file())
    elif kind == 2:
        member.packed = member.in_file()[: rng.randrange(len(member.in_file()) + 1)]
    else:
        member.packed = member.in_file() + bytes(rng.choice((1, 4, 64)))


def change_ends(archive: Archive, rng: random.Random) -> None:
    """The end records, and what lies around them."""
    kind = rng.randrange(9)
    count = len(archive.members)
    field, value = rng.choice(
        (("count", count - 1), ("count", count + 1), ("count_here", count - 1), ("disk", 1),
         ("start", 0), ("start", _MAX32), ("nbytes", _MAX32), ("count", 0xFFFF), ("comment", 7))
    )  # fmt: skip
    if kind <= 1:
        archive.end[field] = value
    elif kind <= 3:
        archive.end64 = rng.choice(({}, {field: value}, {"size64": 56}, None, {"disks": 0}))
    elif kind == 4:
        archive.comment = rng.choice((b"comment", b"PK\5\6", b"PK\5\6" + bytes(18), bytes(40)))
    elif kind == 5:
        archive.suffix = rng.choice((b"\n", bytes(30), b"PK\5\6" + bytes(18), b"PK\5\6"))
    elif kind == 6:
        archive.before_end = rng.choice((b"x", b"PK\5\6", bytes(8)))
    elif kind == 7:
        archive.before_directory = rng.choice((b"gap", bytes(64), b"PK\3\4"))
    else:
        archive.prefix = rng.choice((b"PK\3\4", b"#!/bin/sh\n", bytes(16)))
        archive.is_shifted = rng.random() < 0.5


def nest(archive: Archive, rng: random.Random) -> None:
    """An archive inside the comment, behind or before this one: which of the two is read?"""
    inner = copy.deepcopy(archive)
    for member in inner.members:
        member.data = spoiled(rng, member.data)
    whole = build(inner)
    kind = rng.randrange(3)
    if kind == 0 and len(whole) < 0xFFFF:
        archive.comment = whole
    elif kind == 1:
        archive.suffix = whole
    else:
        archive.prefix = whole
        archive.is_shifted = rng.random() < 0.5


ZIP_MUTATIONS: Final[dict[Mutation, int]] = {
    duplicate: 3, rename: 2, flip_utf8: 1, shuffle_members: 2, shuffle_directory: 2,
    repeat_in_directory: 1, hide: 1, redirect: 1, change_field: 3, change_both: 2,
    change_attributes: 3, change_extra: 3, widen: 2, change_packing: 4, change_data: 2,
    change_ends: 3, nest: 1,
}  # fmt: skip
