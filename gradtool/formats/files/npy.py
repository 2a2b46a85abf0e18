"""NumPy's `.npy`: one array behind a header that is a Python literal.

Layout: `numpy.lib.format`, versions 1.0, 2.0 and 3.0. An array of Python objects is a pickle
behind the header; as a member of an archive it is refused unread.
"""

from __future__ import annotations

import ast
import math
import os
import re
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, cast

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.dtypes import DTYPES, DType
from gradtool.core.locations import Extent, Source, Stream
from gradtool.core.shapes.strides import contiguous_strides, is_contiguous
from gradtool.core.tensors import Skipped, TensorSpec, has_bits, skip_reason
from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.formats.files.pickle import open_pickle

MAGIC: Final = b"\x93NUMPY"
_MAX_DIMENSIONS: Final = 64
_LEAST_NBYTES: Final = 12  # magic, version, and a length of 4 bytes, or of 2 and a literal
_MAX_LITERAL_NBYTES: Final = 10_000  # numpy.lib.format's own limit, `max_header_size`
_USUAL_HEADER_NBYTES: Final = 128  # what NumPy writes for arrays of up to about 15 dimensions
# By version: layout of the header's length, and its encoding.
_LENGTHS: Final[dict[tuple[int, ...], tuple[struct.Struct, str]]] = {
    (1, 0): (struct.Struct("<H"), "latin-1"),
    (2, 0): (struct.Struct("<I"), "latin-1"),
    (3, 0): (struct.Struct("<I"), "utf-8"),
}
# What Python's parser may warn about; NumPy writes it only into the names of fields and units.
_SUSPECT: Final = re.compile(r"\\|\d\.?[^\W\d]")
_DESCR: Final = re.compile(r"([<>|])([A-Za-z])([1-9]\d{0,9})")
_TEXT_DESCR: Final = re.compile(r"[<>|]([USMm])(\d{1,9})(?:\[\w{1,8}\])?")
_DTYPES: Final = {
    "b1": "BOOL",
    "i1": "I8",
    "i2": "I16",
    "i4": "I32",
    "i8": "I64",
    "u1": "U8",
    "u2": "U16",
    "u4": "U32",
    "u8": "U64",
    "f2": "F16",
    "f4": "F32",
    "f8": "F64",
    "c8": "C64",
    "c16": "C128",
}


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says; `data_start` counts bytes from the array's first one."""

    dtype: DType
    shape: tuple[int, ...]
    fortran_order: bool
    big_endian: bool
    data_start: int

    @property
    def strides(self) -> tuple[int, ...] | None:
        """In elements; None for C order, which Fortran order often is too."""
        strides = tuple(reversed(contiguous_strides(self.shape[::-1])))
        in_c_order = not self.fortran_order or is_contiguous(self.shape, strides)
        return None if in_c_order else strides


@dataclass(frozen=True, slots=True)
class Where:
    """Which array is read, for error messages: `byte` is where it starts in the file.

    `member` is its name in an archive, None for a file of its own.
    """

    path: str
    member: str | None = None
    byte: int = 0

    def corrupt(self, problem: str) -> CorruptFileError:
        """The error for an array that contradicts itself."""
        return CorruptFileError(self.path, problem, tensor=self.member, byte=self.byte)

    def unsupported(self, problem: str, hint: str | None = None) -> UnsupportedFormatError:
        """The error for an array that holds what gradtool does not measure."""
        return UnsupportedFormatError(
            self.path, problem, tensor=self.member, byte=self.byte, hint=hint
        )


def recognises(head: bytes) -> bool:
    """Whether a file that starts with `head` is an array."""
    return head.startswith(MAGIC)


def open_npy(source: Source, raw_dtype: DType | None) -> Checkpoint:
    """The catalogue of a single array, which is called as its file is, without `.npy`."""
    size, where = source.file.size, Where(source.path)

    def read(nbytes: int) -> bytes:
        return source.read(0, min(nbytes, size))

    fields, data_start = _fields_of(read, where)
    if fields["descr"] == "|O":
        return open_pickle(source, data_start, "npy")
    header = _header_of(fields, data_start, size, raw_dtype, where)
    name = os.path.basename(source.path).removesuffix(".npy")
    extent = Extent(source.file, header.data_start, size - header.data_start)
    found = catalogued(name, header, extents=(extent,) if extent.nbytes else ())
    return Checkpoint(
        source.path,
        "npy",
        (source.file,),
        tensors=(found,) if isinstance(found, TensorSpec) else (),
        skipped=(found,) if isinstance(found, Skipped) else (),
        in_model_order=True,
    )


def catalogued(
    name: str,
    header: Header,
    extents: tuple[Extent, ...] = (),
    stream: Stream | None = None,
    section: str = "",
) -> TensorSpec | Skipped:
    """The catalogue's line for an array whose data lies in `extents` or comes from `stream`."""
    spec = TensorSpec(
        name,
        header.dtype,
        header.shape,
        extents,
        strides=header.strides,
        stream=stream,
        big_endian=header.big_endian,
        section=section,
    )
    reason = skip_reason(header.dtype)
    if reason is None:
        return spec
    stored = spec if has_bits(header.dtype) else None
    return Skipped(name, header.dtype.name, reason, section, stored=stored)


def read_header(
    read: Callable[[int], bytes], nbytes: int, raw_dtype: DType | None, where: Where
) -> Header:
    """The header of an array that takes `nbytes` bytes, its header included.

    `read(n)` gives its first n bytes, or fewer where there are no more. `raw_dtype` is what the
    user says of elements for which NumPy has no name.

    Raises:
        CorruptFileError: no valid header, or more or less data than it promises.
        UnsupportedFormatError: elements that are no numbers, or that could be of several types.
    """
    fields, data_start = _fields_of(read, where)
    return _header_of(fields, data_start, nbytes, raw_dtype, where)


def _fields_of(read: Callable[[int], bytes], where: Where) -> tuple[dict[str, Any], int]:
    """What a header says, unchecked, and where the data begin; raises as `read_header`."""
    head = read(_USUAL_HEADER_NBYTES)
    if not recognises(head):
        raise where.corrupt("is no NumPy array: it does not start as one")
    if len(head) < _LEAST_NBYTES:
        raise where.corrupt("its header is cut off: truncated")
    version = tuple(head[6:8])
    if version not in _LENGTHS:
        raise where.unsupported(f"npy version {'.'.join(map(str, version))}")
    length, encoding = _LENGTHS[version]
    literal_nbytes = length.unpack_from(head, 8)[0]
    if literal_nbytes > _MAX_LITERAL_NBYTES:
        raise where.corrupt(f"claims a header of {literal_nbytes} bytes, beyond NumPy's limit")
    data_start = 8 + length.size + literal_nbytes
    if data_start > len(head):
        head = read(data_start)
    if data_start > len(head):
        raise where.corrupt(f"its header claims {literal_nbytes} bytes: truncated")
    try:
        return _parse_literal(head[8 + length.size : data_start], encoding), data_start
    except ValueError as error:
        raise where.corrupt(str(error)) from error


def _header_of(
    fields: dict[str, Any], data_start: int, nbytes: int, raw_dtype: DType | None, where: Where
) -> Header:
    """The header that says this, of an array of `nbytes` bytes; raises as `read_header`."""
    dtype, big_endian = _element_type(fields["descr"], raw_dtype, where)
    shape = _checked_shape(fields["shape"], where)
    fortran_order = fields["fortran_order"]
    if not isinstance(fortran_order, bool):
        raise where.corrupt("its fortran_order is neither True nor False")
    promised, held = math.prod(shape) * dtype.itemsize, nbytes - data_start
    if promised != held:
        what = "truncated" if promised > held else "trailing bytes"
        raise where.corrupt(f"shape {shape} promises {promised} bytes, {held} are there: {what}")
    return Header(dtype, shape, fortran_order, big_endian, data_start)


@lru_cache(maxsize=1024)  # a model's layers repeat, and so do the headers of their gradients
def _parse_literal(text: bytes, encoding: str) -> dict[str, Any]:
    """The dictionary that a header spells, with the three keys that it must have; or ValueError."""
    try:
        source = text.decode(encoding)
        tree = _parse_in_silence(source) if _SUSPECT.search(source) else _parse(source)
        fields = ast.literal_eval(tree)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        # All that Python's parser raises for text that is malformed, or nested too deeply.
        raise ValueError("its header is not the literal of a dictionary") from error
    if not isinstance(tree, ast.Dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise ValueError("its header does not have the keys descr, fortran_order and shape")
    if len(tree.keys) != len(fields):
        raise ValueError("ambiguous header: a duplicate key")
    return cast(dict[str, Any], fields)


def _parse(source: str) -> ast.expr:
    return ast.parse(source, mode="eval").body


def _parse_in_silence(source: str) -> ast.expr:
    """As `_parse`, but what it would warn about is a SyntaxError; rarely called.

    Filters of warnings are the whole process's, which may read arrays in several threads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return _parse(source)


def _checked_shape(shape: object, where: Where) -> tuple[int, ...]:
    """The shape, if it is one that an array can have."""
    if not isinstance(shape, tuple) or any(type(size) is not int for size in shape):
        raise where.corrupt("its shape is not a tuple of integers")
    if len(shape) > _MAX_DIMENSIONS or not all(0 <= size < 1 << 63 for size in shape):
        raise where.corrupt("its shape is impossible: a negative or huge size, or too many")
    return shape


def _element_type(descr: object, raw_dtype: DType | None, where: Where) -> tuple[DType, bool]:
    """The type of the elements, and whether they are big-endian."""
    if _holds_objects(descr):
        raise where.unsupported("holds Python objects (a pickle): never loaded")
    text = _TEXT_DESCR.fullmatch(descr) if isinstance(descr, str) else None
    if text is not None:
        characters_nbytes = 4 if text[1] == "U" else 1
        return DType(text[0], 8 * characters_nbytes * int(text[2]), "text"), False
    match = _DESCR.fullmatch(descr) if isinstance(descr, str) else None
    if match is None:
        raise where.unsupported(f"NumPy type {_shortened(descr)} is none that gradtool measures")
    order, code, width = match[1], match[2] + match[3], int(match[3])
    big_endian = order == ">"
    if code in _DTYPES and (order != "|" or width == 1):
        return DTYPES[_DTYPES[code]], big_endian
    is_raw = match[2] == "V" or code == "f1"
    if is_raw and raw_dtype is not None and raw_dtype.bits == 8 * width:
        return raw_dtype, big_endian
    problem = f"NumPy type {descr!r} is none that gradtool measures"
    hint = None
    if is_raw and width == 1:
        problem = f"NumPy type {descr!r} is how 8-bit floats are saved: they cannot be told apart"
        hint = "say which one it is, `raw_dtype='F8_E4M3'` for example"
    elif is_raw and width == 2:
        problem = f"NumPy type {descr!r} does not say what its 16 bits are"
        hint = "if the array was bfloat16, say `raw_dtype='BF16'`"
    raise where.unsupported(problem, hint)


def _holds_objects(descr: object) -> bool:
    """Whether elements, or a field of them, are references to Python objects."""
    if isinstance(descr, list):
        return any(
            _holds_objects(field[1])
            for field in descr
            if isinstance(field, tuple) and len(field) > 1
        )
    return isinstance(descr, str) and descr.lstrip("<>|=").startswith("O")


def _shortened(descr: object) -> str:
    text = repr(descr)
    return text if len(text) <= 80 else f"{text[:77]}..."
