"""Sparse tensors of coordinates (COO) as lines of a catalogue.

Where each entry has an index of its own, and they are in order, the stored values are the tensor.
Everywhere else its values are sums, whatever a flag beside them says: shape and index of an element
are then those of `coalesce()`. To tell, all indices are read; no values are.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import NamedTuple

from gradtool.core.dtypes import DTYPES
from gradtool.core.shapes.boxes import Box
from gradtool.core.tensors import Chunk, Skipped, TensorSpec
from gradtool.errors import CorruptFileError
from gradtool.storage.elements.entries import MOST_PLACES, Entries
from gradtool.storage.elements.summed import SummedIndices, SummedValues, summed_values


class Listed(NamedTuple):
    """The lines for a sparse tensor: of its values, and of its indices, which are no gradients."""

    values: TensorSpec
    indices: Skipped
    is_summed: bool


def listed(path: str, values: TensorSpec, indices: TensorSpec, shape: tuple[int, ...]) -> Listed:
    """The lines for a sparse tensor of that shape; `path` is for errors.

    Raises CorruptFileError where its parts do not fit each other, or an index is out of bounds.
    """
    entries = _checked(path, values, indices, shape)
    summed = summed_values(entries) if values.numel else None
    if summed is None:
        stored = None if indices.big_endian else indices
        skipped = Skipped(indices.name, "I64", "integer", indices.section, stored=stored)
        return Listed(values, skipped, is_summed=False)
    return Listed(_of_sums(values, summed), _of_indices(indices, summed), is_summed=True)


def _checked(path: str, values: TensorSpec, indices: TensorSpec, shape: tuple[int, ...]) -> Entries:
    def lie(problem: str) -> CorruptFileError:
        return CorruptFileError(path, f"a sparse tensor {problem}", tensor=values.name)

    if len(indices.shape) != 2 or not values.shape:
        raise lie("whose indices are no matrix, or whose values have no axis")
    if indices.dtype.name != "I64":  # which torch copies, before 1.6 before it has read them
        raise lie(f"whose indices are {indices.dtype.name} and not I64")
    axes, count = indices.shape
    if count != values.shape[0]:
        raise lie(f"of {count} indices and {values.shape[0]} values")
    if shape[axes:] != values.shape[1:] or len(shape) < axes:
        raise lie(f"of shape {list(shape)} with values of {list(values.shape[1:])}")
    if math.prod(shape[:axes]) >= MOST_PLACES:
        raise lie(f"of shape {list(shape)}, which has 2^63 places or more")
    of_indices, of_values = (replace(spec, name="", section="") for spec in (indices, values))
    return Entries(indices.name, of_indices, of_values, shape[:axes])


def _of_sums(values: TensorSpec, summed: SummedValues) -> TensorSpec:
    """The sums as a tensor of the values' type, stored in one piece in float64."""
    shape = (summed.places, *summed.entries.dense)
    wide = DTYPES["C128" if values.dtype.component else "F64"]
    stored = TensorSpec(
        values.name,
        wide,
        shape,
        stream=summed,
        big_endian=sys.byteorder == "big",
        section=values.section,
    )
    chunk = Chunk(Box((0,) * len(shape), shape), stored)
    return TensorSpec(values.name, values.dtype, shape, section=values.section, chunks=(chunk,))


def _of_indices(indices: TensorSpec, summed: SummedValues) -> Skipped:
    stored = TensorSpec(
        indices.name,
        DTYPES["I64"],
        (len(summed.entries.sizes), summed.places),
        stream=SummedIndices(summed.entries, summed.windows),
        big_endian=sys.byteorder == "big",
        section=indices.section,
    )
    return Skipped(indices.name, "I64", "integer", indices.section, stored=stored)
