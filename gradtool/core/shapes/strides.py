"""Shapes and strides of views, in elements, as torch and NumPy define them.

Strides are never negative here: no checkpoint format stores negative ones, and the readers
refuse them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a C-ordered tensor of that shape."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def is_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether elements lie in C order without gaps; sizes of 1 may have any stride."""
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size == 0:
            return True
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def distinct_axes(shape: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """(stride, size) of each axis along which elements differ, largest stride first."""
    axes = [
        (stride, size)
        for size, stride in zip(shape, strides, strict=True)
        if size != 1 and stride != 0
    ]
    return sorted(axes, reverse=True)


def repetitions(shape: Sequence[int], strides: Sequence[int]) -> int:
    """How often an expanded view names each stored element: the product of stride-0 sizes."""
    return math.prod(size for size, stride in zip(shape, strides, strict=True) if stride == 0)


def span(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements of storage from the first one touched to the last, both included."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether the view is a permutation of one gapless range (a transpose, say)."""
    step = 1
    for stride, size in reversed(distinct_axes(shape, strides)):
        if stride != step:
            return False
        step *= size
    return True


def overlaps_itself(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether two indices may name the same element other than by expansion (sliding windows).

    Also true for some exotic views that do not overlap: no efficient test is exact.
    """
    reach = 0
    for stride, size in reversed(distinct_axes(shape, strides)):
        if stride <= reach:
            return True
        reach += (size - 1) * stride
    return False


def unravel(position: int, shape: Sequence[int]) -> tuple[int, ...]:
    """The index of C-order position `position`, as `numpy.unravel_index`."""
    index: list[int] = []
    for size in reversed(shape):
        position, coordinate = divmod(position, size)
        index.append(coordinate)
    return tuple(reversed(index))
