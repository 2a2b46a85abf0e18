"""Whether a file is MessagePack with an array of Flax's in it, found without keeping anything."""

from __future__ import annotations

from typing import Final, Literal

from gradtool.core.locations import Source
from gradtool.errors import CorruptFileError
from gradtool.formats.cursor import Cursor
from gradtool.formats.msgpack.arrays import ARRAY
from gradtool.formats.msgpack.document import MAX_DEPTH
from gradtool.formats.msgpack.marks import MARKS, Kind, take_head

Found = Literal["array", "none", "cut off", "no MessagePack"]

_BEGINS: Final = frozenset({Kind.MAP, Kind.LIST, Kind.EXTENSION})


def find_array(source: Source, head: bytes) -> Found:
    """Whether there is an array in a file that starts with `head`.

    Other formats begin with bytes that MessagePack gives a meaning: what ends too early, or has
    more behind it, counts as such a document only if it is a map whose first key is a text.
    """
    if not head or MARKS[head[0]].kind not in _BEGINS:
        return "no MessagePack"
    try:
        return _find(Cursor(source))
    except CorruptFileError:
        return "cut off" if _begins_with_a_key(head) else "no MessagePack"


def _find(cursor: Cursor) -> Found:
    """Go through the document, up to the first array."""
    left = [1]
    while left:
        if not left[-1]:
            left.pop()
            continue
        left[-1] -= 1
        kind, size = take_head(cursor)
        if kind is Kind.NEVER or len(left) > MAX_DEPTH:
            return "no MessagePack"
        if kind is Kind.EXTENSION:
            is_array = cursor.take(1)[0] == ARRAY
            if is_array and size and MARKS[cursor.take(1)[0]].kind is Kind.LIST:
                return "array"  # if it is one, which whoever reads it finds out
            cursor.skip(size - (is_array and size > 0))
        elif kind in (Kind.MAP, Kind.LIST):
            left.append(2 * size if kind is Kind.MAP else size)
        elif kind is not Kind.INTEGER:
            cursor.skip(size)
    return "no MessagePack" if cursor.left else "none"


def _begins_with_a_key(head: bytes) -> bool:
    mark, rest = MARKS[head[0]], head[1:]
    if mark.kind is not Kind.MAP or not rest[mark.width :]:
        return False
    key = MARKS[rest[mark.width]]
    begin = mark.width + 1 + key.width
    size = key.size or int.from_bytes(rest[mark.width + 1 : begin], "big")
    text = rest[begin : begin + size]
    return key.kind is Kind.TEXT and len(text) == size and text.isascii() and text.isalnum()
