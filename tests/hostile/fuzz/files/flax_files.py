"""Flax's msgpack files, taken apart into maps, lists and arrays, and changed.

The encoder is its own, so that values can be spelled as no library spells them.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

from fuzz.files.poison import numbers, spoiled

CHUNKED: Final = "__msgpack_chunked_array__"
WIDTHS: Final = {
    "float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "int32": 4, "int8": 1, "bool": 1,
    "complex64": 8, "float8_e4m3fn": 1, "float8_e5m2": 1, "uint16": 2, "int4": 1,
    "float8_e3m4": 1, "datetime64[ns]": 8,
}  # fmt: skip


@dataclass
class Array:
    """An extension as Flax writes arrays; `shape` may hold anything."""

    shape: list[Any]
    type: Any
    data: bytes
    code: int = 1
    more: bytes = b""


@dataclass
class Other:
    """An extension of another type."""

    code: int
    data: bytes


class Pairs(list[tuple[Any, Any]]):
    """A map in order, in which keys may repeat."""


@dataclass
class FlaxFile:
    """A document; `wide` is how often a value is spelled longer than it has to be."""

    root: Any
    wide: random.Random | None = None
    late: list[Callable[[bytes], bytes]] = field(default_factory=list)

    @classmethod
    def parse(cls, content: bytes) -> FlaxFile:
        """The parts of a file that is sound."""
        found = msgpack.unpackb(
            content, ext_hook=_extension, object_pairs_hook=Pairs, strict_map_key=False
        )
        return cls(found)

    def build(self) -> bytes:
        """The file's bytes."""
        content = encoded(self.root, self.wide)
        for change in self.late:
            content = change(content)
        return content

    def nodes(self) -> list[Any]:
        """All maps, lists and arrays."""
        return [*_below(self.root)]

    def arrays(self) -> list[Array]:
        """All arrays that no change has made into none."""
        return [node for node in self.nodes() if isinstance(node, Array) and _is_sound(node)]

    def maps(self) -> list[Pairs]:
        """All maps."""
        return [node for node in self.nodes() if isinstance(node, Pairs)]


def _extension(code: int, data: bytes) -> Any:
    if code not in (1, 3):
        return Other(code, data)
    shape, type_, content = msgpack.unpackb(data)
    return Array([*shape], type_, content, code)


def _is_sound(array: Array) -> bool:
    return (
        isinstance(array.shape, list)
        and all(type(size) is int for size in array.shape)
        and type(array.data) is bytes
    )


def _below(node: Any) -> Iterator[Any]:
    if isinstance(node, Array | Pairs | list):
        yield node
    if isinstance(node, list):
        for item in node:
            yield from _below(item[1] if isinstance(node, Pairs) else item)


def encoded(value: Any, wide: random.Random | None = None) -> bytes:
    """A value as MessagePack, in the shortest spelling, or in any."""
    if isinstance(value, Array):
        inner = encoded([value.shape, value.type, value.data], wide) + value.more
        return _ext(value.code, inner, wide)
    if isinstance(value, Other):
        return _ext(value.code, value.data, wide)
    if isinstance(value, list | str | bytes):
        return _of_several(value, wide)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    single = {None: b"\xc0", False: b"\xc2", True: b"\xc3"}
    return single[value] if value is None or type(value) is bool else _integer(value, wide)


def _of_several(value: list[Any] | str | bytes, wide: random.Random | None) -> bytes:
    if isinstance(value, str):
        raw = value.encode("utf-8", "surrogatepass")
        return _head(len(raw), (0xA0, 31), (0xD9, 0xDA, 0xDB), wide) + raw
    if isinstance(value, bytes):
        return _head(len(value), None, (0xC4, 0xC5, 0xC6), wide) + value
    is_map = isinstance(value, Pairs)
    short, marks = ((0x80, 15), (None, 0xDE, 0xDF)) if is_map else ((0x90, 15), (None, 0xDC, 0xDD))
    items = [one for pair in value for one in pair] if is_map else value
    head = _head(len(value), short, marks, wide)
    return head + b"".join(encoded(one, wide) for one in items)


def _ext(code: int, data: bytes, wide: random.Random | None) -> bytes:
    fixed = {1 << log: 0xD4 + log for log in range(5)}.get(len(data))
    if fixed is not None and not (wide and wide.random() < 0.5):
        return bytes([fixed, code % 256]) + data
    return _head(len(data), None, (0xC7, 0xC8, 0xC9), wide) + bytes([code % 256]) + data


def _integer(value: int, wide: random.Random | None) -> bytes:
    if not (wide and wide.random() < 0.5) and -32 <= value < 128:
        return struct.pack("b", value)
    codes = zip((0xCC, 0xCD, 0xCE, 0xCF), "BHIQ", strict=True)
    if value < 0:
        codes = zip((0xD0, 0xD1, 0xD2, 0xD3), "bhiq", strict=True)
    spelled = []
    value = max(min(value, (1 << 64) - 1), -1 << 63)
    for mark, code in codes:
        try:
            spelled.append(bytes([mark]) + struct.pack(f">{code}", value))
        except struct.error:
            continue
    return wide.choice(spelled) if wide else spelled[0]


def _head(
    count: int,
    short: tuple[int, int] | None,
    marks: tuple[int | None, int, int],
    wide: random.Random | None,
) -> bytes:
    ways = [bytes([short[0] | count])] if short and count <= short[1] else []
    for mark, code, most in zip(marks, "BHI", (255, 65535, (1 << 32) - 1), strict=True):
        if mark is not None and count <= most:
            ways.append(bytes([mark]) + struct.pack(f">{code}", count))
    return wide.choice(ways) if wide else ways[0]


Mutation = Callable[[FlaxFile, random.Random], None]


def spoil_array(file: FlaxFile, rng: random.Random) -> None:
    """A NaN or infinity in the data of an array."""
    if found := file.arrays():
        array = rng.choice(found)
        array.data = spoiled(rng, array.data)


def retype_array(file: FlaxFile, rng: random.Random) -> None:
    """Another type for the same bytes, by a name that is known or not, as text or as bytes."""
    if found := file.arrays():
        array = rng.choice(found)
        array.type = rng.choice([*WIDTHS])
        width = WIDTHS[array.type]
        array.shape = [len(array.data) // width]
        array.data = array.data[: array.shape[0] * width]
        if rng.random() < 0.3:
            others = ("f4", ">f4", "half", "float", "", "O", "V4", "x" * 70, 3, None, "str32")
            array.type = rng.choice((array.type.encode(), *others))


def reshape_array(file: FlaxFile, rng: random.Random) -> None:
    """Another shape: of as many elements, or not."""
    if found := file.arrays():
        array = rng.choice(found)
        count = math.prod(array.shape)
        shapes: tuple[Any, ...] = (
            [count], [count, 1], [1] * 9 + [count], [-1], [0], [0, 1 << 40], [count + 1],
            [1 << 32, 1 << 32], [float(count)], ["a"], [None], [True] * (count == 1), [1] * 70,
            count, None,
        )  # fmt: skip
        array.shape = rng.choice((*shapes[:3], *shapes[:3], *shapes))


def retag_array(file: FlaxFile, rng: random.Random) -> None:
    """An extension of another type, with bytes behind it, or with data as a text."""
    if found := file.arrays():
        array = rng.choice(found)
        kind = rng.randrange(3)
        if kind == 0:
            array.code = rng.choice((0, 2, 3, 4, -1, 127))
        elif kind == 1:
            array.more = rng.choice((b"\0", b"\xc0" * 3))
        else:
            array.data = rng.choice((array.data[:-1], array.data + b"\0", "text"))  # type: ignore[assignment]


def new_array(rng: random.Random, count: int | None = None) -> Array:
    """An array of a few float32 numbers."""
    count = rng.choice((0, 1, 4)) if count is None else count
    return Array([count], "float32", numbers(rng, 4 * count))


def add_value(file: FlaxFile, rng: random.Random) -> None:
    """One more value of a map, of any kind."""
    if found := file.maps():
        node = rng.choice(found)
        keys = ("new", "w", "", "a.b", "0", 0, -3, "é", "params", "step", None, True, 2.5, b"w")
        values: tuple[Any, ...] = (
            new_array(rng), new_array(rng), Pairs([("w", new_array(rng))]), [new_array(rng), 3],
            "text", b"bytes", 7, None, 2.5, Other(5, b"abc"), Other(2, b"\x92\x01\x02"),
            Other(-1, bytes(4)), Pairs(), [], [[[new_array(rng)]]], [1, 2, [3, None]],
            Array([], "float32", bytes(4), 3), Array([1], "float32", bytes(4), 3),
        )  # fmt: skip
        place = rng.randrange(len(node) + 1)
        node.insert(place, (rng.choice((*keys[:9], *keys)), rng.choice(values)))


def rename_key(file: FlaxFile, rng: random.Random) -> None:
    """A key by another, which may be taken."""
    if found := [node for node in file.maps() if node]:
        node = rng.choice(found)
        at = rng.randrange(len(node))
        keys = (rng.choice(node)[0], "w", "a.w", CHUNKED, "x" * 40, "\ud800", "optimizer", 1, "1")
        node[at] = (rng.choice(keys), node[at][1])


def chunk_array(file: FlaxFile, rng: random.Random) -> None:
    """An array in chunks, as Flax cuts large ones, or not quite so."""
    places = [
        (node, at)
        for node in file.nodes()
        if isinstance(node, list)
        for at, item in enumerate(node)
        if isinstance(item[1] if isinstance(node, Pairs) else item, Array)
    ]
    if not places:
        return
    node, at = rng.choice(places)
    array = node[at][1] if isinstance(node, Pairs) else node[at]
    if array.type not in WIDTHS or not _is_sound(array):
        return
    width = WIDTHS[array.type]
    count = len(array.data) // width
    step = max(1, count // rng.choice((1, 2, 3)))
    chunks = Pairs()
    for number, start in enumerate(range(0, count, step)):
        data = array.data[start * width : (start + step) * width]
        chunks.append((str(number), Array([len(data) // width], array.type, data)))
    shape = Pairs((str(axis), size) for axis, size in enumerate(array.shape))
    whole = Pairs([(CHUNKED, True), ("shape", shape), ("chunks", chunks)])
    if rng.random() < 0.5:
        _spoil_chunks(whole, shape, chunks, rng)
    node[at] = (node[at][0], whole) if isinstance(node, Pairs) else whole


def _spoil_chunks(whole: Pairs, shape: Pairs, chunks: Pairs, rng: random.Random) -> None:
    kind = rng.randrange(7)
    if kind == 0:
        rng.shuffle(whole)
        rng.shuffle(chunks)
    elif kind == 1:
        whole.append(("more", new_array(rng)))
    elif kind == 2 and chunks:
        chunks.pop()
    elif kind == 3 and chunks:
        chunks[0] = (rng.choice((0, "1", "7")), chunks[0][1])
    elif kind == 4 and chunks:
        chunks[0][1].type = rng.choice([*WIDTHS])
    elif kind == 5:
        shape.append((str(len(shape)), rng.choice((1, 2, -1, None, "a"))))
    else:
        whole[0] = (CHUNKED, rng.choice((False, None, new_array(rng))))


def wrap(file: FlaxFile, rng: random.Random) -> None:
    """A deeper root, or one that is a part."""
    nodes = file.nodes()
    roots: tuple[Any, ...] = (
        Pairs([("params", file.root)]), [file.root], Pairs([("a", Pairs([("b", file.root)]))]),
        [1, 2, file.root, None], rng.choice(nodes) if nodes else file.root,
    )  # fmt: skip
    file.root = rng.choice(roots)


def respell(file: FlaxFile, rng: random.Random) -> None:
    """Longer spellings of the same values."""
    file.wide = random.Random(rng.random())


def change_bytes(file: FlaxFile, rng: random.Random) -> None:
    """Bytes too few or too many, or one of them another."""
    kind, place, byte = rng.randrange(3), rng.random(), rng.randrange(256)

    def changed(content: bytes) -> bytes:
        at = int(place * len(content))
        if kind == 0:
            return content[:at]
        if kind == 1:
            return content + bytes([byte])
        return content[:at] + bytes([byte]) + content[at + 1 :]

    file.late.append(changed)


FLAX_MUTATIONS: Final[dict[Mutation, int]] = {
    spoil_array: 5, retype_array: 4, reshape_array: 3, retag_array: 1, add_value: 5, rename_key: 2,
    chunk_array: 4, wrap: 2, respell: 3, change_bytes: 1,
}  # fmt: skip
