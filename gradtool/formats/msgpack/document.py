"""The maps and lists of a MessagePack document, with places in the file for its extensions.

Nothing is copied but keys: texts, bytes and the contents of extensions are gone over. Memory is
paid for out of a budget that grows with the bytes that were read, as that of pickles does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from gradtool.core.figures import byte_size
from gradtool.core.locations import Source
from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.formats.cursor import Cursor
from gradtool.formats.msgpack.marks import Head, Kind, take_head

MAX_DEPTH: Final = 200
_MAX_KEY_NBYTES: Final = 65535
_BUDGET_PER_BYTE: Final = 20
_FREE_BUDGET: Final = 40_000_000
_NODE_COST: Final = 300
_ENTRY_COST: Final = 100
_ARRAY_COST: Final = 900  # with what the catalogue and a measurement have of it
_LEAST_NBYTES: Final = {Kind.LIST: 1, Kind.MAP: 2}
_PLAIN: Final = (
    rb"[\x00-\x80\x90\xa0\xc0\xc2\xc3\xe0-\xff]"
    rb"|[\xa1\xcc\xd0].|[\xa2\xcd\xd1]..|\xa3...|[\xa4\xca\xce\xd2].{4}|[\xcb\xcf\xd3].{8}"
)
"""Values that hold nothing: numbers, None, bools, what is empty, texts of a few bytes."""

_ONE_PLAIN: Final = re.compile(_PLAIN, re.DOTALL)
_PLAIN_RUN: Final = re.compile(rb"(?:%b)*+" % _PLAIN, re.DOTALL)


class Extension(NamedTuple):
    """A value of a type that a program gives a meaning: its type, and the place of its bytes."""

    type: int
    offset: int
    nbytes: int


class Entries(dict[str, "Node"]):
    """What a map holds, by key, integers as they are written; or a list, by position."""

    __slots__ = ()


class Items(Entries):
    """The items of a list that are no plain values."""

    __slots__ = ()


Node: TypeAlias = "Entries | Extension | int | None"
"""A value; None for what is of no interest."""


@dataclass(slots=True)
class _Open:
    """A map or list that is being read."""

    entries: Entries
    left: int
    position: int = 0


class Document(NamedTuple):
    """The one value that a file is, and how many bytes of it are not texts, bytes or data."""

    root: Node
    nbytes: int


def read_document(source: Source) -> Document:
    """The document that a file is.

    Raises:
        CorruptFileError: truncated, no MessagePack, a key that repeats, or more behind the value.
        UnsupportedFormatError: keys that are neither text nor integers, too deep, too large.
    """
    return _Reader(source).read()


class _Reader:
    """Reads one document."""

    def __init__(self, source: Source) -> None:
        self._path = source.path
        self._size = source.file.size
        self._cursor = Cursor(source)
        self._spent = 0
        self._passed = 0

    def read(self) -> Document:
        root = Items()
        opened = [_Open(root, 1)]
        while opened:
            last = opened[-1]
            if isinstance(last.entries, Items) and len(opened) > 1:
                self._skip_plain(last)
            if not last.left:
                opened.pop()
                continue
            key = self._next_key(last)
            at = self._cursor.at
            head = take_head(self._cursor)
            if head.kind in _LEAST_NBYTES:
                entries = self._begin(head, at, len(opened))
                last.entries[key] = entries
                opened.append(_Open(entries, head.size))
            else:
                self._end(last.entries, key, head, at)
        if self._cursor.left:
            problem = f"{self._cursor.left} bytes follow the document"
            raise CorruptFileError(self._path, problem, byte=self._cursor.at)
        return Document(root.get("0"), self._cursor.at - self._passed)

    def _skip_plain(self, last: _Open) -> None:
        while last.left and (count := self._cursor.skip_run(_PLAIN_RUN, _ONE_PLAIN, last.left)):
            last.left -= count
            last.position += count

    def _next_key(self, last: _Open) -> str:
        last.left -= 1
        if isinstance(last.entries, Items):
            last.position += 1
            return str(last.position - 1)
        at = self._cursor.at
        kind, count = take_head(self._cursor)
        if kind is Kind.INTEGER:
            key = str(count)
        elif kind is Kind.TEXT:
            key = self._text(count, at)
        else:
            problem = "a key that is neither a text nor an integer"
            raise UnsupportedFormatError(self._path, problem, byte=at)
        if key in last.entries:
            raise CorruptFileError(self._path, f"key {key!r:.80} appears twice", byte=at)
        self._spend(_ENTRY_COST + len(key))
        return key

    def _text(self, nbytes: int, at: int) -> str:
        if nbytes > _MAX_KEY_NBYTES:
            problem = f"a key of {nbytes} bytes, more than {_MAX_KEY_NBYTES}"
            raise UnsupportedFormatError(self._path, problem, byte=at)
        try:
            return self._cursor.take(nbytes).decode("utf-8")
        except UnicodeDecodeError as error:
            raise CorruptFileError(self._path, "a key that is not UTF-8", byte=at) from error

    def _begin(self, head: Head, at: int, depth: int) -> Entries:
        if depth > MAX_DEPTH:
            problem = f"nests too deeply: more than {MAX_DEPTH} levels"
            raise UnsupportedFormatError(self._path, problem, byte=at)
        if head.size * _LEAST_NBYTES[head.kind] > self._cursor.left:
            problem = f"claims {head.size} entries, and {self._cursor.left} bytes follow"
            raise CorruptFileError(self._path, f"{problem}: truncated", byte=at)
        self._spend(_NODE_COST)
        return Entries() if head.kind is Kind.MAP else Items()

    def _end(self, entries: Entries, key: str, head: Head, at: int) -> None:
        """Take a value that holds no others, and keep it where it may count."""
        node: Node = None
        if head.kind is Kind.NEVER:
            problem = "a byte 0xc1, which MessagePack never uses"
            raise CorruptFileError(self._path, problem, byte=at)
        if head.kind is Kind.INTEGER:
            node = head.size
        elif head.kind is Kind.EXTENSION:
            type_ = int.from_bytes(self._cursor.take(1), "big", signed=True)
            node = Extension(type_, self._cursor.at, head.size)
            self._spend(_ARRAY_COST)
            self._go_over(head.size, at)
        else:
            self._go_over(head.size, at)
        if node is not None or not isinstance(entries, Items):
            entries[key] = node

    def _go_over(self, nbytes: int, at: int) -> None:
        if nbytes > self._cursor.left:
            problem = f"claims {nbytes} bytes, and {self._cursor.left} follow: truncated"
            raise CorruptFileError(self._path, problem, byte=at)
        self._cursor.skip(nbytes)
        self._passed += nbytes

    def _spend(self, cost: int) -> None:
        """Pay for memory; what was gone over, texts and data, counts for nothing."""
        self._spent += cost
        read = self._cursor.at - self._passed
        allowed = _BUDGET_PER_BYTE * read + _FREE_BUDGET
        if self._spent > allowed:
            problem = (
                f"the document expands far beyond its size: {byte_size(read)} of it may take "
                f"{byte_size(allowed)} of memory"
            )
            raise UnsupportedFormatError(self._path, problem, byte=self._cursor.at)
