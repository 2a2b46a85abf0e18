"""Flax's msgpack files: nested maps of arrays, as `flax.serialization.to_bytes` writes them.

Tensors are called by the keys that lead to them. Arrays of more than 1 GiB are cut by Flax into
chunks, of which `msgpack_restore` makes one array again, and so is it here. Source:
flax/serialization.py, Flax 0.12, and what `msgpack.unpackb` reads.
"""

from __future__ import annotations

import math
import os
import re
from typing import Final

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.dtypes import DTYPES
from gradtool.core.element_types import array_type
from gradtool.core.locations import Source
from gradtool.core.order.listed import may_be_the_model_s
from gradtool.core.sections import GRADS, KEYS, Sections, sections_of
from gradtool.core.tensors import SCALAR, TEXT, Skipped, TensorSpec, has_bits
from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.formats.file_kinds import told_by
from gradtool.formats.msgpack.arrays import StoredArray
from gradtool.formats.msgpack.document import read_document
from gradtool.formats.msgpack.finding import find_array
from gradtool.formats.msgpack.walk import Leaf, Walk

_PARAMS: Final = "params"
_NUMPY: Final = re.compile(
    r"bool|u?int(8|16|32|64)|float(16|32|64)|complex(64|128)|bfloat16"
    r"|float8_(e4m3fn|e5m2|e4m3fnuz|e5m2fnuz|e8m0fnu)"
)
_OF_ML_DTYPES: Final = re.compile(r"u?int[124]|float[468]_e\dm\d(b11)?(fn|fnu|fnuz)?")
"""Types for which there is no measure, of a byte for each element."""

_TIMES: Final = re.compile(r"(datetime|timedelta)64(\[\w+\])?")


def recognises(source: Source, head: bytes) -> bool:
    """Whether a file that starts with `head` is MessagePack with an array of Flax's in it."""
    return find_array(source, head) == "array"


def open_flax_msgpack(source: Source) -> Checkpoint:
    """The catalogue of a file that Flax wrote.

    Raises:
        CorruptFileError: no MessagePack, or arrays that contradict themselves.
        UnsupportedFormatError: types that are not known, two tensors of one name.
    """
    walk = Walk(source)
    walk.visit_root(read_document(source))
    section_of = _sections(source.path, walk)
    tensors: list[TensorSpec] = []
    skipped: list[Skipped] = []
    for leaf in walk.leaves:
        found = _catalogued(source.path, leaf, section_of(leaf.name))
        if isinstance(found, TensorSpec):
            tensors.append(found)
        else:
            skipped.append(found)
    others = ", ".join(map(str, sorted(walk.types)))
    return Checkpoint(
        path=source.path,
        format="flax-msgpack",
        files=(source.file,),
        tensors=tuple(tensors),
        skipped=tuple(skipped),
        section_kinds=section_of.kinds,
        notes=(f"not read: MessagePack extensions of type {others}",) if others else (),
        in_model_order=may_be_the_model_s(tensors),
    ).with_scales_apart()


def _sections(path: str, walk: Walk) -> Sections:
    """The sections of the arrays, by the keys at the top.

    Modules call a part of their variables `params`, and so are the gradients called of which a file
    by its name holds nothing else.
    """
    found = {key for key in walk.keys if key in KEYS}
    if found == {_PARAMS}:
        told = told_by(os.path.splitext(os.path.basename(path))[0])
        if told is not None and told.section == GRADS:
            return Sections()
    return sections_of({leaf.name: leaf.top for leaf in walk.leaves}, walk.keys)


def _catalogued(path: str, leaf: Leaf, section: str) -> TensorSpec | Skipped:
    """The catalogue's line for one array, whose type is known, and whose bytes are as many."""
    type_ = leaf.pieces[0].type
    if _TIMES.fullmatch(type_):
        _check_nbytes(path, leaf, 8)
        return Skipped(leaf.name, type_, TEXT, section)
    element = array_type(type_) if _NUMPY.fullmatch(type_) else None
    if element is None and not _OF_ML_DTYPES.fullmatch(type_):
        byte = leaf.pieces[0].data.offset
        problem = f"gradtool does not know the type {type_!r:.80}"
        raise UnsupportedFormatError(path, problem, tensor=leaf.name, byte=byte)
    _check_nbytes(path, leaf, element.itemsize if element else 1)
    if leaf.is_scalar:
        return Skipped(leaf.name, element.name if element else type_, SCALAR, section)
    if element is None:
        return Skipped(leaf.name, type_, "dtype without a measure", section)
    dtype = DTYPES[element.name]
    extents = tuple(piece.data for piece in leaf.pieces if piece.data.nbytes)
    spec = TensorSpec(leaf.name, dtype, leaf.shape, extents, section=section)
    if element.dtype is not None:
        return spec
    stored = spec if has_bits(dtype) else None
    return Skipped(leaf.name, dtype.name, element.reason, section, stored=stored)


def _check_nbytes(path: str, leaf: Leaf, itemsize: int) -> None:
    for piece in leaf.pieces:
        promised = math.prod(piece.shape) * itemsize
        if piece.data.nbytes != promised:
            raise _promises(path, leaf.name, piece, promised)


def _promises(path: str, name: str, piece: StoredArray, promised: int) -> CorruptFileError:
    shape = piece.shape
    problem = f"shape {shape} promises {promised} bytes, {piece.data.nbytes} are there"
    return CorruptFileError(path, problem, tensor=name, byte=piece.data.offset)
