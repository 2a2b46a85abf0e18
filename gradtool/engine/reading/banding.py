"""Bands of rows that are measured by themselves, while their tensors are.

What a tensor's elements are reduced to does not depend on it: those of a band are reduced once
more, block by block, by their positions in the tensor and however they are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.names import BareNames, NameFilter, name_filter
from gradtool.core.shapes.rows import Bands, Rows
from gradtool.core.tensors import TensorSpec
from gradtool.engine.backend import BLOCK_PIECES, Bytes
from gradtool.engine.numpy_backend.backend import NUMPY
from gradtool.engine.overlaps.sharing import Sharing
from gradtool.engine.reading.reductions import Elements, Part, Reduction
from gradtool.errors import UsageError

MOST_BANDS: Final = 1 << 19
"""Bands of all tensors together, of which each takes some hundred bytes until the end."""


def bands_of_rows(checkpoint: Checkpoint, is_wanted: NameFilter) -> dict[str, Bands]:
    """Each row of the wanted tensors that have two axes or more, by the tensors' names.

    UsageError where no tensor is wanted that has rows, or too many rows are.
    """
    found = {
        name: Bands.each_row(shape)
        for name, shape in _shapes(checkpoint).items()
        if len(shape) > 1 and is_wanted(name)
    }
    if not found:
        raise UsageError(f"{checkpoint.path}: `rows` matches no tensor with two axes or more")
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


def reduced_by_band(
    elements: Elements, bands: Bands, reduction: Reduction[Part]
) -> Iterator[tuple[int, Part]]:
    """The number of each band of which there are elements in a segment, and their result.

    In NumPy, whatever else computes: the bytes are still on the host, and most rows are short.
    """
    itemsize, (count,) = elements.dtype.itemsize, elements.counts
    raw: Bytes = elements.raw[: count * itemsize]
    subnormals = elements.subnormals
    first, last = elements.firsts[0], elements.firsts[0] + count - 1
    positions = None
    if elements.positions is not None:
        positions = elements.positions(np.arange(count))
        order = np.argsort(positions, kind="stable")
        positions = positions[order]
        raw = raw.reshape(-1, itemsize)[order].reshape(-1)
        subnormals = None if subnormals is None else subnormals[order]
        first, last = int(positions[0]), int(positions[-1])
    low, high = bands.at(first // bands.row_numel), bands.at(last // bands.row_numel)
    begins = np.asarray(bands.cuts[low : high + 2], np.int64) * bands.row_numel
    if positions is None:
        edges = np.clip(begins - first, 0, count)
    else:
        edges = np.searchsorted(positions, begins)
    held = np.flatnonzero(np.diff(edges))
    for begin in range(0, len(held), BLOCK_PIECES):
        batch = held[begin : begin + BLOCK_PIECES]
        starts, counts = edges[batch], np.diff(edges)[batch].tolist()
        start, stop = int(starts[0]), int(starts[-1]) + counts[-1]
        segments = replace(
            elements,
            raw=raw[start * itemsize : stop * itemsize],
            counts=counts,
            firsts=(starts + (first if positions is None else 0)).tolist(),
            positions=None if positions is None else positions.__getitem__,
            ascends=True,
            subnormals=None if subnormals is None else subnormals[start:stop],
        )
        yield from zip((batch + low).tolist(), reduction.of(segments, NUMPY), strict=True)
