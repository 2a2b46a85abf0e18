"""From what a pickle says about a NumPy array to an entry of a catalogue whose bytes exist."""

from __future__ import annotations

import math
from typing import Final

from gradtool.core.dtypes import DTYPES
from gradtool.core.element_types import numpy_type
from gradtool.core.locations import Extent, Inline
from gradtool.core.shapes.strides import contiguous_strides, is_contiguous
from gradtool.core.tensors import TEXT, Skipped, TensorSpec, has_bits
from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.formats.pickles.stand_ins import ArrayRef, ArrayType, Bytes, TextBytes
from gradtool.formats.pickles.walk import NamedLeaf

_MAX_DIMENSIONS: Final = 64
_LIMIT: Final = 1 << 63
_TEXT_KINDS: Final = frozenset("USMm")  # NumPy's letters for text, bytes, dates and spans


def array_entry(
    found: NamedLeaf, array: ArrayRef, pickle: Extent, section: str
) -> TensorSpec | Skipped:
    """The line of a catalogue for an array that is pickled in `pickle`.

    Raises:
        CorruptFileError: its bytes are not there, or its numbers are none.
        UnsupportedFormatError: a type with a state of a file's own.
    """
    path = pickle.file.path
    match array.state:
        case (int(), tuple() as shape, ArrayType() as dtype, fortran, data) if (
            len(shape) <= _MAX_DIMENSIONS
        ):
            pass
        case _:
            problem = "a NumPy array without a shape, a type or data"
            raise CorruptFileError(path, problem, tensor=found.name)
    sizes = integers(shape, "shape", path, found.name)
    element = numpy_type(dtype.description)
    known = None if element is None else element.dtype or DTYPES.get(element.name)
    if element is None or known is None or not (element.dtype or has_bits(known)):
        name, reason = (element.name, element.reason) if element else (dtype.description, "")
        is_text = dtype.description[:1] in _TEXT_KINDS
        reason = TEXT if is_text else reason or "NumPy type that holds no gradients"
        return Skipped(found.name, name, reason, section)
    place = _data(found, data, pickle, math.prod(sizes) * element.itemsize)
    strides = contiguous_strides(sizes[::-1])[::-1] if fortran else contiguous_strides(sizes)
    spec = TensorSpec(
        name=found.name,
        dtype=known,
        shape=sizes,
        extents=(place,) if isinstance(place, Extent) and place.nbytes else (),
        strides=None if is_contiguous(sizes, strides) else strides,
        stream=place if isinstance(place, Inline) else None,
        big_endian=_is_big_endian(found, dtype, path),
        section=section,
    )
    if element.dtype is None:
        return Skipped(found.name, element.name, element.reason, section, stored=spec)
    return spec


def integers(claims: tuple[object, ...], what: str, path: str, name: str) -> tuple[int, ...]:
    """`claims` if all are sizes that can be; CorruptFileError, which says `what`, if not."""
    numbers = [claim for claim in claims if type(claim) is int and 0 <= claim < _LIMIT]
    if len(numbers) != len(claims):
        problem = f"{what}: a number is negative, beyond 2^63 or no integer"
        raise CorruptFileError(path, problem, tensor=name)
    return tuple(numbers)


def _is_big_endian(found: NamedLeaf, dtype: ArrayType, path: str) -> bool:
    """The byte order that a type's state says: (version, order, subarray, names, fields, …)."""
    match dtype.state:
        case None:
            return False
        case (3 | 4, "<" | "|" | "=", None, None, None, _, _, _, *_):
            return False
        case (3 | 4, ">", None, None, None, _, _, _, *_) if dtype.copied:
            return True
    problem = f"NumPy type {dtype.description!r:.80} with a state that is not its own"
    raise UnsupportedFormatError(path, problem, tensor=found.name)


def _data(found: NamedLeaf, data: object, pickle: Extent, needs: int) -> Extent | Inline:
    """Where an array's bytes are: in the pickle as they are, or only as encoded text."""
    path = pickle.file.path
    if isinstance(data, Bytes):
        place: Extent | Inline = Extent(pickle.file, pickle.offset + data.start, data.nbytes)
    elif isinstance(data, TextBytes):
        try:
            decoded = data.text.encode(data.encoding)
        except UnicodeEncodeError as error:
            problem = "a NumPy array whose text is no bytes"
            raise CorruptFileError(path, problem, tensor=found.name) from error
        place = Inline(decoded)
    else:
        raise CorruptFileError(path, "a NumPy array without bytes", tensor=found.name)
    if place.nbytes != needs:
        problem = f"a NumPy array that promises {needs} bytes and holds {place.nbytes}"
        raise CorruptFileError(path, problem, tensor=found.name)
    return place if needs else Extent(pickle.file, pickle.offset, 0)
