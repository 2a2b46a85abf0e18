"""GGUF files, taken apart into keys, tensors and data, and changed."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from fuzz.files.poison import numbers, spoiled

_ALIGNMENT: Final = b"general.alignment"
_VALUES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
SIZES: Final = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 30: (1, 2), 39: (32, 17),
}  # fmt: skip
"""Elements and bytes of a block, of some types."""


@dataclass
class Pair:
    """A key and its value as bytes, of a type, or an array of `count` values of type `of`."""

    key: bytes
    type: int
    value: bytes
    of: int = 0
    count: int = 0
    key_nbytes: int | None = None


@dataclass
class Info:
    """A tensor: dimensions innermost first; `offset` is what is said, if it is not the truth."""

    name: bytes
    dims: list[int]
    type: int
    data: bytes
    offset: int | None = None
    name_nbytes: int | None = None
    ndim: int | None = None


@dataclass
class GgufFile:
    """A file: `counts` of tensors and keys are what is said, if it is not the truth."""

    pairs: list[Pair] = field(default_factory=list)
    infos: list[Info] = field(default_factory=list)
    version: int = 3
    order: str = "<"
    magic: bytes = b"GGUF"
    counts: tuple[int | None, int | None] = (None, None)
    alignment: int | None = None
    """Of the data, if it is not as the key says."""
    tail: bytes | None = None
    """What follows the last tensor; None for padding as the others have it."""

    @classmethod
    def parse(cls, content: bytes) -> GgufFile:
        """The parts of a file that is sound."""
        order = "<" if content[4:6] != b"\0\0" else ">"
        version, tensors, pairs = struct.unpack_from(f"{order}IQQ", content, 4)
        reader = _Fields(content, 24, order)
        file = cls([_pair(reader) for _ in range(pairs)], version=version, order=order)
        infos = [_info(reader) for _ in range(tensors)]
        alignment = file.said_alignment()
        start, end = _padded(reader.at, alignment), 0
        for info in infos:
            block, nbytes = SIZES[info.type]
            begin = start + _padded(end, alignment)
            size = math.prod(info.dims) // block * nbytes
            info.data, end = content[begin : begin + size], begin + size - start
        file.infos = infos
        if not infos:
            file.tail = content[reader.at :]
        elif (tail := content[start + end :]) != bytes(_padded(end, alignment) - end):
            file.tail = tail
        return file

    def said_alignment(self) -> int:
        """What the key of that name says."""
        for pair in self.pairs:
            if pair.key == _ALIGNMENT and len(pair.value) == 4:
                return struct.unpack(f"{self.order}I", pair.value)[0] or 1
        return 32

    def build(self) -> bytes:
        """The file's bytes."""
        order, alignment = self.order, self.alignment or self.said_alignment()
        counts = [
            len(these) if said is None else said
            for these, said in zip((self.infos, self.pairs), self.counts, strict=True)
        ]
        head = self.magic + struct.pack(f"{order}IQQ", self.version, *counts)
        for pair in self.pairs:
            nbytes = len(pair.key) if pair.key_nbytes is None else pair.key_nbytes
            head += (
                struct.pack(f"{order}Q", nbytes) + pair.key + struct.pack(f"{order}I", pair.type)
            )
            if pair.type == 9:
                head += struct.pack(f"{order}IQ", pair.of, pair.count)
            head += pair.value
        data = b""
        for info in self.infos:
            data += bytes(_padded(len(data), alignment) - len(data))
            head += _described(info, len(data), order)
            data += info.data
        padding = bytes(_padded(len(data), alignment) - len(data))
        start = bytes(_padded(len(head), alignment) - len(head)) if self.infos else b""
        return head + start + data + (padding if self.tail is None else self.tail)

    def add(self, key: bytes, type_: int, value: bytes) -> None:
        """One more key."""
        self.pairs.append(Pair(key, type_, value))


def text(value: bytes, order: str = "<") -> bytes:
    """A text as GGUF has it."""
    return struct.pack(f"{order}Q", len(value)) + value


def _described(info: Info, offset: int, order: str) -> bytes:
    nbytes = len(info.name) if info.name_nbytes is None else info.name_nbytes
    ndim = len(info.dims) if info.ndim is None else info.ndim
    said = offset if info.offset is None else info.offset
    dims = b"".join(struct.pack(f"{order}Q", size % (1 << 64)) for size in info.dims)
    head = struct.pack(f"{order}Q", nbytes) + info.name + struct.pack(f"{order}I", ndim) + dims
    return head + struct.pack(f"{order}IQ", info.type, said % (1 << 64))


def _padded(at: int, alignment: int) -> int:
    return -(-at // alignment) * alignment


class _Fields:
    """Takes fields of a sound file one after another."""

    def __init__(self, content: bytes, at: int, order: str) -> None:
        self.content, self.at, self.order = content, at, order

    def number(self, code: str) -> int:
        at, self.at = self.at, self.at + struct.calcsize(code)
        return struct.unpack_from(self.order + code, self.content, at)[0]

    def take(self, nbytes: int) -> bytes:
        at, self.at = self.at, self.at + nbytes
        return self.content[at : self.at]


def _pair(reader: _Fields) -> Pair:
    key, type_ = reader.take(reader.number("Q")), reader.number("I")
    of, count = (reader.number("I"), reader.number("Q")) if type_ == 9 else (type_, 1)
    start = reader.at
    for _ in range(count):
        reader.take(reader.number("Q") if of == 8 else _VALUES[of])
    value = reader.content[start : reader.at]
    return Pair(key, type_, value, of, count) if type_ == 9 else Pair(key, type_, value)


def _info(reader: _Fields) -> Info:
    name = reader.take(reader.number("Q"))
    dims = [reader.number("Q") for _ in range(reader.number("I"))]
    type_, _ = reader.number("I"), reader.number("Q")
    return Info(name, dims, type_, b"")


Mutation = Callable[[GgufFile, random.Random], None]


def spoil_tensor(file: GgufFile, rng: random.Random) -> None:
    """A NaN or infinity in the data of a tensor."""
    if file.infos:
        info = rng.choice(file.infos)
        info.data = spoiled(rng, info.data)


def retype_tensor(file: GgufFile, rng: random.Random) -> None:
    """Another type for the same bytes, or for as many as it takes."""
    if file.infos:
        info = rng.choice(file.infos)
        info.type = rng.choice([*SIZES, 4, 5, 15, 31, 38, 42, 255, 1 << 31])
        block, nbytes = SIZES.get(info.type, (1, 1))
        if rng.random() < 0.7:
            info.dims = [len(info.data) // nbytes * block]
            info.data = info.data[: info.dims[0] // block * nbytes]


def reshape_tensor(file: GgufFile, rng: random.Random) -> None:
    """Another shape: of as many elements, or of none, or of more than there are."""
    if file.infos:
        info = rng.choice(file.infos)
        dims, count = info.dims, math.prod(info.dims)
        shapes = (
            [count], [count, 1], [1, count], dims[::-1], [*dims, 1], [1] * 5 + dims, [1] * 9,
            [0, *dims], [*dims, 0], [count + 1], [-1], [-2, -1], [1 << 62, 4], [1 << 32, 1 << 31],
            [] if count == 1 else [count],
        )  # fmt: skip
        info.dims = [*rng.choice(shapes)]
        if 0 in info.dims and rng.random() < 0.7:
            info.data = b""


def rename_tensor(file: GgufFile, rng: random.Random) -> None:
    """A name that is taken, long, empty, or none."""
    if file.infos:
        other = rng.choice(file.infos).name
        names = (
            other, b"", b"w\0a", b"x" * 63, b"x" * 64, b"\xff", "é.w".encode(), b"model.w",
            b"optimizer.w", b"\xed\xa0\x80", b"a.b",
        )  # fmt: skip
        rng.choice(file.infos).name = rng.choice(names)


def add_tensor(file: GgufFile, rng: random.Random) -> None:
    """One more tensor."""
    type_ = rng.choice([*SIZES])
    block, nbytes = SIZES[type_]
    blocks = rng.choice((0, 1, 1, 2, 4))
    info = Info(rng.choice((b"new", b"W", b"w.x")), [blocks * block], type_, b"")
    info.data = numbers(rng, blocks * nbytes)
    file.infos.insert(rng.randrange(len(file.infos) + 1), info)


def move_tensors(file: GgufFile, rng: random.Random) -> None:
    """Data elsewhere than said, or in another order than they are listed."""
    if not file.infos:
        return
    info = rng.choice(file.infos)
    kind = rng.randrange(3)
    if kind == 0:
        info.offset = rng.choice((0, 1, 32, 64, 4096, -1, -32, 1 << 63))
    elif kind == 1:
        rng.shuffle(file.infos)
    else:
        info.data += bytes(rng.choice((1, 32)))


def change_pairs(file: GgufFile, rng: random.Random) -> None:
    """A key of any type, an array, one that is taken, or that says more than is there."""
    order = file.order
    values = (
        (4, struct.pack(f"{order}I", 7)), (8, text(b"value", order)), (0, b"\1"), (7, b"\2"),
        (12, bytes(8)), (13, bytes(4)), (1 << 31, bytes(4)), (8, struct.pack(f"{order}Q", 1 << 63)),
    )  # fmt: skip
    keys = (b"a.key", b"", b"\xff", _ALIGNMENT, b"general.type", b"k" * 300, b"tokenizer.ggml.x")
    taken = [pair.key for pair in file.pairs] or [b"a"]
    key = rng.choice((*keys, rng.choice(taken)))
    if rng.random() < 0.4:
        count = rng.choice((0, 1, 3, 3, 1 << 10))  # gguf-py goes through all of them
        of = rng.choice((0, 4, 8, 9, 12, 13))
        one = text(b"ab", order) if of == 8 else bytes(_VALUES.get(of, 4))
        file.pairs.append(Pair(key, 9, one * min(count, 3), of, count))
    else:
        file.add(key, *rng.choice(values))


def change_alignment(file: GgufFile, rng: random.Random) -> None:
    """Data aligned otherwise, by a key that says so, or another."""
    file.pairs = [pair for pair in file.pairs if pair.key != _ALIGNMENT]
    value = rng.choice((1, 8, 16, 64, 256, 13, 0, 1 << 31))
    type_ = rng.choice((4, 4, 4, 5, 10))
    raw = struct.pack(file.order + {4: "I", 5: "I", 10: "Q"}[type_], value)
    file.add(_ALIGNMENT, type_, raw)
    if value == 1 << 31 or rng.random() < 0.2:
        file.alignment = rng.choice((1, 32))


def change_head(file: GgufFile, rng: random.Random) -> None:
    """Another version or byte order of numbers, magic, or counts."""
    kind = rng.randrange(4)
    if kind == 0:
        file.version = rng.choice((0, 1, 2, 2, 3, 4, 0x30000, 1 << 31))
    elif kind == 1:
        file.magic = rng.choice((b"GGUF", b"FUGG", b"GGUf", b"tjgg", b"lmgg"))
    else:
        counts = [*file.counts]
        counts[kind - 2] = rng.choice((0, 1, (1 << 64) - 1, 1 << 62, len(file.infos) + 1))
        file.counts = counts[0], counts[1]


def change_end(file: GgufFile, rng: random.Random) -> None:
    """Bytes too many or too few."""
    file.tail = rng.choice((b"", b"\0", bytes(31), bytes(32), bytes(300), b"x" * 64))
    if file.infos and rng.random() < 0.4:
        file.infos[-1].data = file.infos[-1].data[:-1]
        file.tail = b""


GGUF_MUTATIONS: Final[dict[Mutation, int]] = {
    spoil_tensor: 5, retype_tensor: 4, reshape_tensor: 4, rename_tensor: 2, add_tensor: 4,
    move_tensors: 1, change_pairs: 3, change_alignment: 2, change_head: 1, change_end: 1,
}  # fmt: skip
