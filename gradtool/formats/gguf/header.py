"""What a GGUF file says before its data: metadata by key, and what each tensor is.

All numbers are claims, checked by the rules of ggml's own reader. Of metadata only what gradtool
asks for is kept: a tokenizer's words are gone over. Source: `gguf_init_from_reader` of
ggml/src/gguf.cpp, and docs/gguf.md of ggml. Version 3 brought files for big-endian machines, in
which all numbers are swapped; version 1, whose counts are shorter, nothing reads any longer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from gradtool.core.locations import Source
from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.formats.cursor import Cursor
from gradtool.formats.gguf.types import TYPES, GgmlType

MAGIC: Final = b"GGUF"

ALIGNMENT: Final = "general.alignment"
TYPE: Final = "general.type"
_ARCHITECTURE: Final = "general.architecture"
_VOCABULARY: Final = "tokenizer.ggml."

_VERSIONS: Final = (2, 3)
_DEFAULT_ALIGNMENT: Final = 32
_MAX_DIMENSIONS: Final = 8  # of MLX's reader; ggml's has 4
_MAX_NAME_NBYTES: Final = 65535
_LIMIT: Final = 1 << 63
_LEAST_PAIR_NBYTES: Final = 14  # a key of one byte, a type, a value of one byte
_LEAST_TENSOR_NBYTES: Final = 24  # an empty name, no dimensions, a type and an offset

_UINT32: Final = 4
_STRING: Final = 8
_ARRAY: Final = 9
_VALUE_NBYTES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


class Entry(NamedTuple):
    """A tensor: its type, its shape with the innermost dimension last, and its data's place."""

    name: str
    type: GgmlType
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(slots=True)
class Header:
    """What a header says.

    Attributes:
        big_endian: byte order of the file's numbers, the elements among them.
        texts: the values of the keys that gradtool asks for.
        has_vocabulary: whether there is a tokenizer's, as in a model that is to be run.
        is_ordered: whether it begins as gguf-py's writer has it, which keeps the order in which it
            is given tensors; MLX has them in that of a hash.
        tensors: in the order of the file, which is that of their data; offsets are the file's.
    """

    big_endian: bool
    texts: dict[str, str] = field(default_factory=dict)
    has_vocabulary: bool = False
    is_ordered: bool = False
    tensors: list[Entry] = field(default_factory=list)


def read_header(source: Source) -> Header:
    """The header of a file that begins with MAGIC.

    Raises:
        CorruptFileError: truncated, or contradicting itself or the format, with key or tensor.
        UnsupportedFormatError: another version of the format.
    """
    return _Reader(source).read()


class _Reader:
    """Reads one header."""

    def __init__(self, source: Source) -> None:
        self._path = source.path
        self._size = source.file.size
        self._cursor = Cursor(source, len(MAGIC))
        self._order: Literal["little", "big"] = "little"
        self._alignment = _DEFAULT_ALIGNMENT

    def read(self) -> Header:
        self._read_version()
        header = Header(self._order == "big")
        count = self._count("tensors", _LEAST_TENSOR_NBYTES)
        pairs = self._count("keys", _LEAST_PAIR_NBYTES)
        keys: set[str] = set()
        for _ in range(pairs):
            self._read_pair(header, keys)
        names: set[str] = set()
        self._place(header, [self._tensor(names) for _ in range(count)])
        return header

    def _read_version(self) -> None:
        raw = self._cursor.take(4)
        version = int.from_bytes(raw, "little")
        if version & 0xFFFF == 0:  # as ggml tells the other byte order
            self._order = "big"
            version = int.from_bytes(raw, "big")
        if version not in _VERSIONS:
            said = f"is GGUF of version {version}, gradtool reads 2 and 3"
            hint = "convert it with a current llama.cpp" if version == 1 else None
            raise UnsupportedFormatError(self._path, said, byte=4, hint=hint)

    def _count(self, what: str, least_nbytes: int) -> int:
        at = self._cursor.at
        count = self._number(8)
        if count * least_nbytes > self._cursor.left:
            problem = f"claims {count} {what}, more than {self._size} bytes can hold"
            raise CorruptFileError(self._path, problem, byte=at)
        return count

    def _read_pair(self, header: Header, keys: set[str]) -> None:
        at = self._cursor.at
        key = self._text("a key")
        if not key or key in keys:
            problem = "a key that is empty" if not key else "a duplicate key"
            raise self._corrupt(problem, key, at)
        header.is_ordered |= not keys and key == _ARCHITECTURE
        keys.add(key)
        header.has_vocabulary |= key.startswith(_VOCABULARY)
        at = self._cursor.at
        type_ = self._number(4)
        if key == ALIGNMENT:
            self._read_alignment(type_, at)
        elif key == TYPE and type_ == _STRING:
            header.texts[key] = self._text("a value", key)
        elif type_ == _ARRAY:
            self._skip_array(key)
        else:
            self._skip_values(key, type_, 1, at)

    def _read_alignment(self, type_: int, at: int) -> None:
        if type_ != _UINT32:
            raise self._corrupt(f"is of type {type_}, which is not UINT32", ALIGNMENT, at)
        value = self._number(4)
        if value == 0 or value & (value - 1):
            raise self._corrupt(f"is {value}, no power of two", ALIGNMENT, at + 4)
        self._alignment = value

    def _skip_array(self, key: str) -> None:
        at = self._cursor.at
        type_ = self._number(4)
        count = self._number(8)
        if type_ == _ARRAY:
            raise self._corrupt("is an array of arrays, which no reader of ggml's takes", key, at)
        self._skip_values(key, type_, count, at)

    def _skip_values(self, key: str, type_: int, count: int, at: int) -> None:
        nbytes = 8 if type_ == _STRING else _VALUE_NBYTES.get(type_)
        if nbytes is None:
            raise self._corrupt(f"is of type {type_}, which GGUF does not have", key, at)
        if count * nbytes > self._cursor.left:
            problem = f"claims {count} values, and {self._cursor.left} bytes follow: truncated"
            raise self._corrupt(problem, key, self._cursor.at)
        if type_ != _STRING:
            self._cursor.skip(count * nbytes)
            return
        cursor, order = self._cursor, self._order
        for _ in range(count):
            cursor.skip(int.from_bytes(cursor.take(8), order))

    def _tensor(self, names: set[str]) -> tuple[str, GgmlType, tuple[int, ...], int, int]:
        """Name, type, shape and offset of the next tensor, and where the offset stands."""
        at = self._cursor.at
        name = self._text("a tensor's name")
        if "\0" in name:
            raise self._corrupt("a name with a NUL in it, which ends it for ggml", name, at)
        if name in names:
            raise self._corrupt("two tensors have this name", name, at)
        names.add(name)
        at = self._cursor.at
        ndim = self._number(4)
        if ndim > _MAX_DIMENSIONS:
            problem = f"has {ndim} dimensions, no reader takes more than {_MAX_DIMENSIONS}"
            raise self._corrupt(problem, name, at)
        at = self._cursor.at
        sizes = tuple(self._number(8) for _ in range(ndim))
        if math.prod(max(size, 1) for size in sizes) >= _LIMIT:
            raise self._corrupt("a size is negative, or all together are beyond 2^63", name, at)
        at = self._cursor.at
        number = self._number(4)
        type_ = TYPES.get(number)
        if type_ is None:
            raise self._corrupt(f"is of type {number}, which gradtool does not know", name, at)
        row = sizes[0] if sizes else 1
        if row % type_.block:
            problem = f"has rows of {row}, which {type_.name} packs by {type_.block}"
            raise self._corrupt(problem, name, at)
        at = self._cursor.at
        return name, type_, sizes[::-1], self._number(8), at

    def _place(
        self, header: Header, found: list[tuple[str, GgmlType, tuple[int, ...], int, int]]
    ) -> None:
        """Place the data of all tensors, which must lie one behind another, each aligned."""
        data_start = _padded(self._cursor.at, self._alignment)
        end = 0
        for name, type_, shape, offset, at in found:
            begin = _padded(end, self._alignment)
            if offset != begin:
                problem = f"its data begin at {offset}, and should at {begin}: a hole or an overlap"
                raise self._corrupt(problem, name, at)
            nbytes = math.prod(shape) // type_.block * type_.nbytes
            end = begin + nbytes
            if data_start + end > self._size:
                problem = f"ends {data_start + end - self._size} bytes after the file: truncated"
                raise self._corrupt(problem, name, data_start + begin)
            header.tensors.append(Entry(name, type_, shape, data_start + begin, nbytes))
        last = max(data_start + _padded(end, self._alignment), self._cursor.at)
        if self._size > last:
            problem = f"{self._size - last} bytes follow the last tensor"
            raise CorruptFileError(self._path, problem, byte=last)

    def _text(self, what: str, key: str | None = None) -> str:
        at = self._cursor.at
        nbytes = self._number(8)
        if nbytes > _MAX_NAME_NBYTES:
            problem = f"{what} of {nbytes} bytes, GGUF allows {_MAX_NAME_NBYTES}"
            raise self._corrupt(problem, key, at)
        try:
            return self._cursor.take(nbytes).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._corrupt(f"{what} that is not UTF-8", key, at + 8) from error

    def _number(self, nbytes: int) -> int:
        return int.from_bytes(self._cursor.take(nbytes), self._order)

    def _corrupt(self, problem: str, name: str | None, byte: int) -> CorruptFileError:
        return CorruptFileError(self._path, problem, tensor=name, byte=byte)


def _padded(at: int, alignment: int) -> int:
    return -(-at // alignment) * alignment
