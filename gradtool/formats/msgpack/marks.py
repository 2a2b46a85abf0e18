"""The first bytes of MessagePack values: what each begins, and how long that is.

Source: spec.md of msgpack/msgpack, of 2017.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, NamedTuple

from gradtool.formats.cursor import Cursor


class Kind(Enum):
    """What a value is: `RAW` is text or bytes, `PLAIN` all that holds nothing of interest."""

    PLAIN = auto()
    INTEGER = auto()
    TEXT = auto()
    BYTES = auto()
    LIST = auto()
    MAP = auto()
    EXTENSION = auto()
    NEVER = auto()


class Mark(NamedTuple):
    """What a first byte says.

    Attributes:
        kind: of the value.
        size: entries, or bytes that follow; of an integer of one byte its value.
        width: bytes of that size, or of an integer, that follows; 0 where `size` is it.
        signed: whether an integer is.
    """

    kind: Kind
    size: int = 0
    width: int = 0
    signed: bool = False


_SINGLE: Final = {
    0xC0: Mark(Kind.PLAIN),
    0xC1: Mark(Kind.NEVER),
    0xC2: Mark(Kind.PLAIN),
    0xC3: Mark(Kind.PLAIN),
    0xCA: Mark(Kind.PLAIN, 4),
    0xCB: Mark(Kind.PLAIN, 8),
    0xDC: Mark(Kind.LIST, width=2),
    0xDD: Mark(Kind.LIST, width=4),
    0xDE: Mark(Kind.MAP, width=2),
    0xDF: Mark(Kind.MAP, width=4),
    **{0xC4 + log: Mark(Kind.BYTES, width=1 << log) for log in range(3)},
    **{0xC7 + log: Mark(Kind.EXTENSION, width=1 << log) for log in range(3)},
    **{0xCC + log: Mark(Kind.INTEGER, width=1 << log) for log in range(4)},
    **{0xD0 + log: Mark(Kind.INTEGER, width=1 << log, signed=True) for log in range(4)},
    **{0xD4 + log: Mark(Kind.EXTENSION, 1 << log) for log in range(5)},
    **{0xD9 + log: Mark(Kind.TEXT, width=1 << log) for log in range(3)},
}


def _mark(byte: int) -> Mark:
    if byte < 0x80:
        return Mark(Kind.INTEGER, byte)
    if byte < 0x90:
        return Mark(Kind.MAP, byte & 15)
    if byte < 0xA0:
        return Mark(Kind.LIST, byte & 15)
    if byte < 0xC0:
        return Mark(Kind.TEXT, byte & 31)
    return _SINGLE[byte] if byte < 0xE0 else Mark(Kind.INTEGER, byte - 0x100)


MARKS: Final = tuple(map(_mark, range(256)))
"""By first byte."""


class Head(NamedTuple):
    """A value's kind and size: entries, bytes that follow, or the integer that it is."""

    kind: Kind
    size: int


def take_head(cursor: Cursor) -> Head:
    """Take all of a value but its entries or bytes; an extension's type is among these no more."""
    mark = MARKS[cursor.take(1)[0]]
    if not mark.width:
        return Head(mark.kind, mark.size)
    return Head(mark.kind, int.from_bytes(cursor.take(mark.width), "big", signed=mark.signed))
