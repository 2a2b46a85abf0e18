"""Flax's arrays in MessagePack: an extension that is a document of shape, type and bytes.

Source: `_ndarray_to_bytes` and `_msgpack_ext_pack` of flax/serialization.py, Flax 0.12.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from gradtool.core.locations import Extent, Source
from gradtool.errors import CorruptFileError
from gradtool.formats.cursor import Cursor
from gradtool.formats.msgpack.document import Extension
from gradtool.formats.msgpack.marks import Kind, take_head

ARRAY: Final = 1
COMPLEX: Final = 2
SCALAR: Final = 3

MAX_DIMENSIONS: Final = 64
_MAX_TYPE_NBYTES: Final = 64
LIMIT: Final = 1 << 63
_RAW: Final = (Kind.TEXT, Kind.BYTES)


class StoredArray(NamedTuple):
    """An array: its type as NumPy calls that, its shape, and its bytes in C order."""

    type: str
    shape: tuple[int, ...]
    data: Extent


def read_array(source: Source, found: Extension, name: str) -> StoredArray:
    """What is in an extension of type ARRAY or SCALAR, called `name`.

    CorruptFileError where it is not as Flax writes it.
    """

    def corrupt(problem: str) -> CorruptFileError:
        return CorruptFileError(source.path, problem, tensor=name, byte=found.offset)

    end = found.offset + found.nbytes
    cursor = Cursor(source, found.offset)
    # Of a hostile extension this may look behind its end, which is found out below.
    if take_head(cursor) != (Kind.LIST, 3):
        raise corrupt("is no list of shape, type and bytes, as Flax writes arrays")
    kind, ndim = take_head(cursor)
    if kind is not Kind.LIST or ndim > MAX_DIMENSIONS:
        raise corrupt(f"shape is no list of at most {MAX_DIMENSIONS} sizes")
    sizes = [take_head(cursor) for _ in range(ndim)]
    shape = tuple(size for _, size in sizes)
    if any(kind is not Kind.INTEGER or not 0 <= size < LIMIT for kind, size in sizes):
        raise corrupt("shape has what is no size")
    if math.prod(shape) >= LIMIT:
        raise corrupt("sizes are beyond 2^63 all together")
    kind, nbytes = take_head(cursor)
    if kind not in _RAW or not 0 < nbytes <= _MAX_TYPE_NBYTES:
        raise corrupt("type is no name")
    type_ = cursor.take(nbytes)
    kind, nbytes = take_head(cursor)
    if kind not in _RAW or cursor.at + nbytes != end:
        problem = f"says {nbytes} bytes of data, {end - cursor.at} are there"
        raise corrupt(problem if kind in _RAW else "data are no bytes")
    if not type_.isascii():
        raise corrupt("type is no name")
    return StoredArray(type_.decode("ascii"), shape, Extent(source.file, cursor.at, nbytes))
