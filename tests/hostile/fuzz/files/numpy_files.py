"""NumPy's files, taken apart into header and data, and changed; archives of them."""

from __future__ import annotations

import ast
import math
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from fuzz.files.poison import numbers, spoiled
from fuzz.files.zips import Archive, Member

_CODES: Final = (
    "f4",
    "f8",
    "f2",
    "c8",
    "c16",
    "i4",
    "i8",
    "u1",
    "b1",
    "V2",
    "S4",
    "U1",
    "m8",
    "i2",
)


@dataclass
class NpyFile:
    """An array: `fields` are keys and values of the header's literal as text, in order."""

    version: tuple[int, int]
    fields: list[tuple[str, str]]
    data: bytes
    late: list[Callable[[str], str]] = field(default_factory=list)
    length: int | None = None

    @classmethod
    def parse(cls, content: bytes) -> NpyFile:
        """The parts of an array that NumPy wrote."""
        version = (content[6], content[7])
        start = 10 if version == (1, 0) else 12
        end = start + int.from_bytes(content[8:start], "little")
        literal = ast.literal_eval(
            content[start:end].decode("latin-1" if version < (3, 0) else "utf-8")
        )
        return cls(
            version, [(repr(key), repr(value)) for key, value in literal.items()], content[end:]
        )

    def build(self) -> bytes:
        """The array's bytes, its data aligned as NumPy does."""
        text = "{" + ", ".join(f"{key}: {value}" for key, value in self.fields) + ", }"
        for change in self.late:
            text = change(text)
        encoded = text.encode("utf-8" if self.version >= (3, 0) else "latin-1", "replace")
        width = 2 if self.version == (1, 0) else 4
        encoded += b" " * (-(8 + width + len(encoded) + 1) % 64) + b"\n"
        length = len(encoded) if self.length is None else self.length
        head = b"\x93NUMPY" + bytes(self.version) + length.to_bytes(width, "little")
        return head + encoded + self.data

    def get(self, key: str) -> Any:
        """The value of a field, None where it is none."""
        for name, value in self.fields:
            if name.strip("'\"") == key:
                try:
                    return ast.literal_eval(value)
                except (ValueError, SyntaxError):
                    return None
        return None

    def set(self, key: str, value: str) -> None:
        """Another value of a field, as text."""
        self.fields = [
            (name, value if name.strip("'\"") == key else old) for name, old in self.fields
        ]


ArrayMutation = Callable[[NpyFile, random.Random], None]


def retype(array: NpyFile, rng: random.Random) -> None:
    """Another type for the same bytes."""
    code, order = rng.choice(_CODES), rng.choice("<>|=")
    width = int(code[1:]) * (4 if code[0] == "U" else 1)
    array.set("descr", repr(f"{order}{code}"))
    array.set("shape", f"({len(array.data) // width},)")


def swap_order(array: NpyFile, rng: random.Random) -> None:
    """Another byte order, or order of the axes."""
    descr = array.get("descr")
    if rng.random() < 0.5 and isinstance(descr, str):
        array.set("descr", repr(rng.choice("<>|=") + descr[1:]))
    else:
        array.set("fortran_order", rng.choice(("True", "False", "1", "0", "None", "'True'")))


def reshape(array: NpyFile, rng: random.Random) -> None:
    """Another shape of as many elements."""
    shape = array.get("shape")
    if isinstance(shape, tuple) and all(type(size) is int for size in shape):
        count = math.prod(shape)
        shapes = (count,), (1, count), (count, 1), shape[::-1], (*shape, 1), (1,) * 40 + shape
        array.set("shape", repr(rng.choice(shapes)))


def respell_field(array: NpyFile, rng: random.Random) -> None:
    """A value of the header, as Python may spell it, or may not."""
    shape = array.get("shape")
    spelled = ", ".join(
        rng.choice((f"{size}", f"{size}L", hex(size), f"+{size}", f"{size}.0", f"-{size}", "True",
                    f"{size:_}", f"({size})", f"{size} ", oct(size), f"0{size}"))
        for size in (shape if isinstance(shape, tuple) else ())
        if type(size) is int
    )  # fmt: skip
    kind = rng.randrange(6)
    if kind <= 2:
        array.set("shape", f"({spelled},)" if spelled else "()")
    elif kind == 3:
        array.set("shape", rng.choice((f"[{spelled}]", f"{spelled}", "(6)", "()", "None")))
    elif kind == 4:
        array.set("descr", rng.choice(_DESCRS).format(array.get("descr")))
    else:
        array.late.append(_RESPELLINGS[rng.randrange(len(_RESPELLINGS))])


_DESCRS: Final = (
    "u'{0}'", '"{0}"', "b'{0}'", "r'{0}'", "('{0}')", "'' '{0}'", "'float32'", "'f4'", "'<f'",
    "('{0}', ())", "('{0}', (2,))", "'4f'", "'{0},'", "[('x', '{0}')]", "[('', '{0}')]", "'|O'",
    "'<f\\x34'",
)  # fmt: skip
"""What may stand for the type, of which {0} is what stood there."""

_RESPELLINGS: Final[tuple[Callable[[str], str], ...]] = (
    lambda text: text.replace(", }", "}"),
    lambda text: text.replace("{", "{\n"),
    lambda text: text + "#",
    lambda text: text + " # {'descr': '<f8'}",
    lambda text: " " + text,
    lambda text: text.replace("'", '"'),
    lambda text: f"({text})",
    lambda text: text + "\n\n",
    lambda text: text.replace("{", "{**{}, "),
    lambda text: text.replace("'shape'", "'sha' 'pe'"),
    lambda text: text.replace("\\", ""),
    lambda text: text + "\0",
    lambda text: f"{text[:-1]} 'more': 1}}",
)


def repeat_field(array: NpyFile, rng: random.Random) -> None:
    """A key twice, with another value; in another order; one too few."""
    kind = rng.randrange(3)
    if kind == 0:
        key, value = rng.choice(array.fields)
        other = {"'shape'": "(1,)", "'descr'": "'<f2'", "'fortran_order'": "True"}.get(key, value)
        array.fields.insert(rng.randrange(len(array.fields) + 1), (key, other))
    elif kind == 1:
        rng.shuffle(array.fields)
    else:
        array.fields.pop()


def change_version(array: NpyFile, rng: random.Random) -> None:
    array.version = rng.choice(((1, 0), (2, 0), (3, 0), (2, 0), (3, 0), (1, 1), (4, 0), (0, 0)))


def change_array_ends(array: NpyFile, rng: random.Random) -> None:
    """Bytes too few or too many, a length that lies."""
    kind = rng.randrange(4)
    if kind == 0:
        array.data += rng.choice((b"\0", bytes(64), b"\x93NUMPY"))
    elif kind == 1:
        array.data = array.data[:-1]
    elif kind == 2:
        array.length = rng.choice((0, 10, 0xFFFF))
    else:
        array.late.append(lambda text: text + " " * rng.choice((1, 300, 9900)))


def spoil_array(array: NpyFile, rng: random.Random) -> None:
    array.data = spoiled(rng, array.data)


ARRAY_MUTATIONS: Final[dict[ArrayMutation, int]] = {
    retype: 3, swap_order: 3, reshape: 3, respell_field: 3, repeat_field: 1, change_version: 2,
    change_array_ends: 1, spoil_array: 4,
}  # fmt: skip


def spoil_member(archive: Archive, rng: random.Random) -> None:
    """A NaN or infinity in the array of a member."""
    _change_array(archive, spoil_array, rng)


def change_member(archive: Archive, rng: random.Random) -> None:
    """A change to the array in a member."""
    change = rng.choices([*ARRAY_MUTATIONS], [*ARRAY_MUTATIONS.values()])[0]
    _change_array(archive, change, rng)


def _change_array(archive: Archive, change: ArrayMutation, rng: random.Random) -> None:
    members = [one for one in archive.members if one.data.startswith(b"\x93NUMPY")]
    if not members:
        return
    member = rng.choice(members)
    try:
        array = NpyFile.parse(member.data)
    except (ValueError, SyntaxError, IndexError, UnicodeError):
        return  # an earlier change left nothing to take apart
    change(array, rng)
    member.data = array.build()


def add_member(archive: Archive, rng: random.Random) -> None:
    """A member by any name: with the suffix or without, alike, or none of NumPy's."""
    taken = rng.choice(archive.members).name if archive.members else b"w.npy"
    names = (
        b"new.npy", b"new", taken.removesuffix(b".npy"), taken + b".npy", taken.upper(), b".npy",
        b"archive/data.pkl", b"x/y.npy", b"dir/", b"dir/.npy", b"version", "é".encode(),
        b"a.NPY", b"data.pkl", b"__MACOSX/w.npy", b"optimizer.w.npy",
    )  # fmt: skip
    data = new_array(rng) if rng.random() < 0.8 else rng.choice((b"", b"text", b"\x93NUM"))
    member = Member(
        rng.choice(names), data, method=rng.choice((0, 0, 8)), flags=rng.choice((0, 0x800))
    )
    archive.members.insert(rng.randrange(len(archive.members) + 1), member)
    archive.order = None


def new_array(rng: random.Random) -> bytes:
    """An array of a few float32 numbers, one of which may be bad."""
    count = rng.choice((1, 2, 4))
    literal = [("'descr'", "'<f4'"), ("'fortran_order'", "False"), ("'shape'", f"({count},)")]
    return NpyFile((1, 0), literal, numbers(rng, 4 * count)).build()


def empty_archive(archive: Archive, rng: random.Random) -> None:
    """An archive of fewer members, or none."""
    del archive.members[rng.randrange(len(archive.members) + 1) :]
    archive.order = None


def add_torch_records(archive: Archive, rng: random.Random) -> None:
    """What makes an archive a torch file too."""
    folder = rng.choice((b"archive/", b"", b"w/"))
    key = b"X" + struct.pack("<I", 1) + b"w"
    pickles = (
        b"\x80\x02}.",
        b"\x80\x02}" + key + b"ctorch\nTensor\n(]G\x7f\xf8" + bytes(6) + b"atRs.",
    )
    for name, data in ((b"data.pkl", rng.choice(pickles)), (b"version", b"3\n")):
        archive.members.insert(rng.choice((0, len(archive.members))), Member(folder + name, data))
    if rng.random() < 0.5:
        for member in archive.members:
            member.name = folder + member.name.removeprefix(folder)
    archive.order = None


ARCHIVE_MUTATIONS: Final[dict[Callable[[Archive, random.Random], None], int]] = {
    change_member: 12, add_member: 3, empty_archive: 1, add_torch_records: 1,
}  # fmt: skip
