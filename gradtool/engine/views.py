"""Walking views with gaps: which stored elements they name, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradtool.core.strides import contiguous_strides, distinct_axes, overlaps_itself
from gradtool.engine.plan import Layout, Target

Int64 = NDArray[np.int64]

STEP = 1 << 16
"""Indices resolved at a time."""


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis that reaches other elements: strides in storage and in C order."""

    stride: int
    size: int
    c_stride: int


def _axes(layout: Layout) -> list[_Axis]:
    c_strides = contiguous_strides(layout.shape)
    axes = [
        _Axis(stride, size, c_stride)
        for size, stride, c_stride in zip(layout.shape, layout.strides, c_strides, strict=True)
        if size != 1 and stride != 0
    ]
    # Storage order makes reads run forwards; where indices collide only C order tells which
    # of them comes first.
    if overlaps_itself(layout.shape, layout.strides):
        return axes
    return sorted(axes, key=lambda axis: -axis.stride)


def layout_of_target(target: Target) -> Layout:
    """The layout of any target, C-ordered ones included."""
    spec = target.spec
    return Layout(spec.shape, spec.strides or contiguous_strides(spec.shape))


def walk(target: Target, start: int, stop: int) -> Iterator[tuple[Int64, Int64]]:
    """(storage offsets, C-order positions) of a target's elements, each at most STEP long.

    Offsets are in elements from the first one of the tensor. `start` and `stop` count the
    indices of the walk: all of them over the whole walk name each element of the target.
    """
    layout = layout_of_target(target)
    axes = _axes(layout)
    itemsize = target.spec.dtype.itemsize
    once = target.distinct and overlaps_itself(layout.shape, layout.strides)
    for low in range(start, stop, STEP):
        at = np.arange(low, min(low + STEP, stop), dtype=np.int64)
        offsets, positions = np.zeros_like(at), np.zeros_like(at)
        for axis in reversed(axes):
            at, index = np.divmod(at, axis.size)
            offsets += index * axis.stride
            positions += index * axis.c_stride
        keep = np.ones(len(offsets), dtype=bool)
        if once:
            keep &= _first_visits(layout, offsets, low)
        for byte, view in target.earlier:
            keep &= ~_names(view, offsets - byte // itemsize)
        yield offsets[keep], positions[keep]


def first_position(layout: Layout, offsets: Int64) -> int:
    """The smallest C-order position among the elements at `offsets` of a dense layout."""
    positions = np.zeros_like(offsets)
    for axis in _axes(layout):
        index, offsets = np.divmod(offsets, axis.stride)
        positions += index * axis.c_stride
    return int(positions.min())


def _names(layout: Layout, offsets: Int64) -> NDArray[np.bool_]:
    """Which of the offsets, counted from the view's first element, the view names."""
    if overlaps_itself(layout.shape, layout.strides):
        return np.isin(offsets, _all_offsets(layout))
    named: NDArray[np.bool_] = offsets >= 0
    rest = offsets
    for stride, size in distinct_axes(layout.shape, layout.strides):
        index, rest = np.divmod(rest, stride)
        named &= index < size
    named &= rest == 0
    return named


def _first_visits(layout: Layout, offsets: Int64, low: int) -> NDArray[np.bool_]:
    """Which visits of the walk, from index `low` on, are the first to their element."""
    first = np.unique(_all_offsets(layout), return_index=True)[1]
    visits = np.zeros(len(offsets), dtype=bool)
    visits[first[(first >= low) & (first < low + len(offsets))] - low] = True
    return visits


def _all_offsets(layout: Layout) -> Int64:
    """Every offset of a view that overlaps itself; the formats keep those small."""
    axes = _axes(layout)
    offsets = np.zeros((), dtype=np.int64)
    for axis in axes:
        offsets = offsets[..., None] + np.arange(axis.size, dtype=np.int64) * axis.stride
    return offsets.reshape(-1)
