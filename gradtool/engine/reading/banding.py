"""Bands of rows that are measured by themselves, while their tensors are.

What a tensor's elements are reduced to does not depend on it: those of a band are reduced once
more, block by block, by their positions in the tensor and however they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.names import BareNames, name_filter, nearest_names
from gradtool.core.shapes.rows import Bands, Rows
from gradtool.core.tensors import TensorSpec
from gradtool.engine.backend import Bytes
from gradtool.engine.numpy_backend.columns import Columns
from gradtool.engine.numpy_backend.kernels import CACHED_NUMEL
from gradtool.engine.numpy_backend.kernels import columns as statistics_of_segments
from gradtool.engine.overlaps.sharing import Sharing
from gradtool.engine.overlaps.views import Int64
from gradtool.engine.reading.reductions import Elements, Positions
from gradtool.errors import UsageError

MOST_BANDS: Final = 1 << 19
"""Bands of all tensors together, of which each takes some hundred bytes until the end."""


def bands_of_rows(
    checkpoint: Checkpoint, globs: Sequence[str], bare: BareNames
) -> dict[str, Bands]:
    """Each row of the tensors with two axes or more that globs match, by the tensors' names.

    UsageError where they match none of these, naming the nearest, or too many rows.
    """
    is_wanted = name_filter(globs, (), bare)
    with_rows = {name: shape for name, shape in _shapes(checkpoint).items() if len(shape) > 1}
    found = {name: Bands.each_row(shape) for name, shape in with_rows.items() if is_wanted(name)}
    if not found:
        wanted = ", ".join(map(repr, globs))
        raise UsageError(
            f"{checkpoint.path}: `rows` {wanted} matches no tensor with two axes or more",
            hint=nearest_names(globs[0], with_rows),
        )
    return _few_enough(checkpoint, found)


def bands_of_ranges(
    checkpoint: Checkpoint, wanted: Sequence[Rows], bare: BareNames
) -> dict[str, Bands]:
    """Bands that begin and end where the `wanted` rows do, by the names of their tensors.

    UsageError for rows that a tensor does not have, or too many.
    """
    ranges: dict[str, list[range]] = {}
    shapes = _shapes(checkpoint)
    for rows in wanted:
        is_meant = name_filter([rows.glob], (), bare)
        for name, shape in shapes.items() if rows.is_indexed else ():
            if is_meant(name):
                found = rows.of(shape)
                if found is None:
                    problem = f"{rows.text!r}: there are no such rows in {name!r}"
                    raise UsageError(f"{checkpoint.path}: {problem}, of shape {list(shape)}")
                ranges.setdefault(name, []).append(found)
    bands = {name: Bands.around(found, shapes[name]) for name, found in ranges.items()}
    return _few_enough(checkpoint, bands)


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor by its name, of what ranks hold as their own too."""
    tensors = {spec.name: spec.shape for spec in checkpoint.tensors}
    own = [copy.as_tensor for copy in checkpoint.replicas if copy.may_differ]
    return {**tensors, **{spec.name: spec.shape for spec in own}}


def _few_enough(checkpoint: Checkpoint, bands: dict[str, Bands]) -> dict[str, Bands]:
    if (number := sum(map(len, bands.values()))) > MOST_BANDS:
        raise UsageError(
            f"{checkpoint.path}: {number:,} rows, of {next(iter(bands))!r} and others, are too "
            f"many: gradtool tells at most {MOST_BANDS:,} apart"
        )
    return bands


def bands_of_parts(
    specs: Sequence[TensorSpec],
    stored: Sequence[TensorSpec],
    sharing: Sharing,
    bands: Mapping[str, Bands],
) -> dict[int, Bands]:
    """The bands of each of the `stored` parts that `specs` consist of, by its target.

    A part that names one row again and again has none: all its rows are alike.
    """
    found: dict[int, Bands] = {}
    index = 0
    for spec in specs:
        for start in starts_of_parts(spec):
            part = stored[index]
            if spec.name in bands and part.numel and not has_equal_rows(part):
                target = sharing.same_as.get(index, index)
                inner = bands[spec.name].within(start, part.shape)
                found[target] = inner.cut_like(found.get(target))
            index += 1
    return found


def starts_of_parts(spec: TensorSpec) -> list[int]:
    """The first row of each part that a tensor consists of; 0 for one without rows."""
    offsets = [chunk.box.offsets for chunk in spec.chunks] if spec.chunks else [(0,)]
    return [at[0] if at else 0 for at in offsets]


def has_equal_rows(part: TensorSpec) -> bool:
    """Whether all rows of a part are the same stored elements, as in an expanded view."""
    return part.strides is not None and part.strides[0] == 0 and part.shape[0] > 1


def numbers_of_rows(bands: Bands, rows: Int64) -> Int64:
    """The number of the band that holds each of the rows."""
    if isinstance(bands.cuts, range):
        return rows
    numbers: Int64 = np.searchsorted(np.asarray(bands.cuts), rows, side="right") - 1
    return numbers


_WHOLE: Final[dict[int, DTypeLike]] = {
    1: np.uint8,
    2: np.uint16,
    4: np.uint32,
    8: np.uint64,
    16: np.complex128,
}
"""Types of which NumPy copies elements of so many bytes as a whole, and no bit of them changes."""


class _Sorted(NamedTuple):
    """Elements of a segment, band by band.

    Attributes:
        raw: their bytes.
        low: the number of the first band that there is an element of.
        numels: how many elements each band has, from that one to the last; some may have none.
        subnormals: see `Elements`.
        positions: from places of elements, as they are now, to C-order positions.
    """

    raw: Bytes
    low: int
    numels: Int64
    subnormals: NDArray[np.bool_] | None
    positions: Positions


def statistics_by_band(elements: Elements, bands: Bands, norm_type: float) -> Columns:
    """The statistics of the bands from the first to the last that one segment has elements of.

    In NumPy, whatever else computes: the bytes are still on the host, and most rows are short.
    """
    if elements.positions is None:
        ordered = _as_they_are(elements, bands)
    else:
        ordered = _sorted(elements, bands, elements.positions)
    raw, low, numels, subnormals, positions = ordered
    held = np.flatnonzero(numels)
    counts = numels[held]
    big_endian = elements.big_endian
    found = statistics_of_segments(
        raw, elements.dtype, counts, norm_type, big_endian=big_endian, places=positions
    )
    if subnormals is not None:
        starts = np.cumsum(counts) - counts
        np.add.reduceat(subnormals, starts, dtype=np.int64, out=found.count("subnormals"))
    if len(held) == len(numels):
        return replace(found, first=low)
    whole = Columns.empty(norm_type, low, len(numels))
    whole.add(found, held + low)
    return whole


def _as_they_are(elements: Elements, bands: Bands) -> _Sorted:
    """Elements that follow each other in C order."""
    (first,), (count,) = elements.firsts, elements.counts
    low = bands.at(first // bands.row_numel)
    high = bands.at((first + count - 1) // bands.row_numel)
    begins = np.asarray(bands.cuts[low : high + 2], np.int64) * bands.row_numel
    edges: Int64 = np.clip(begins - first, 0, count)
    numels = edges[1:] - edges[:-1]
    raw = elements.raw[: count * elements.dtype.itemsize]
    return _Sorted(raw, low, numels, elements.subnormals, lambda places: places + first)


def _sorted(elements: Elements, bands: Bands, positions_of: Positions) -> _Sorted:
    """Elements in any order, of each band in the one in which they are stored."""
    itemsize, (count,) = elements.dtype.itemsize, elements.counts
    numbers = _numbers(elements, bands, positions_of)
    low = int(numbers.min())
    numbers -= numbers.dtype.type(low)
    # NumPy sorts numbers of 16 bits in a few passes.
    numbers = numbers.astype(np.min_scalar_type(int(numbers.max())), copy=False)
    order = np.argsort(numbers, kind="stable")
    numels = np.bincount(numbers)
    raw = elements.raw[: count * itemsize].view(_WHOLE[itemsize])[order].view(np.uint8)
    subnormals = None if elements.subnormals is None else elements.subnormals[order]
    return _Sorted(raw, low, numels, subnormals, lambda places: positions_of(order[places]))


def _numbers(elements: Elements, bands: Bands, positions_of: Positions) -> NDArray[Any]:
    """The number of the band of each element, a few at a time: they are wide on the way."""
    (count,) = elements.counts
    numbers = np.empty(count, np.min_scalar_type(len(bands)))
    for start in range(0, count, CACHED_NUMEL):
        stop = min(start + CACHED_NUMEL, count)
        rows = positions_of(np.arange(start, stop)) // bands.row_numel
        numbers[start:stop] = numbers_of_rows(bands, rows)
    return numbers
