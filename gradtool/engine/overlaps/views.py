"""Which stored elements a view names, within a range, and at which of its indices.

A view names a stored element if one of its indices leads to that element.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gradtool.core.shapes.strides import contiguous_strides, overlaps_itself

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """A tensor's shape and strides, in elements; offsets in storage count from its first one."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def overlaps_itself(self) -> bool:
        """Whether two indices may name the same element, other than by expansion."""
        return overlaps_itself(self.shape, self.strides)

    @cached_property
    def _axes(self) -> list[tuple[int, int, int]]:
        """(stride, size, stride in C order) of each axis along which elements differ.

        Largest stride first, so that walking the last axis fastest runs forwards in storage.
        """
        c_strides = contiguous_strides(self.shape)
        axes = zip(self.strides, self.shape, c_strides, strict=True)
        return sorted((axis for axis in axes if axis[0] and axis[1] != 1), reverse=True)

    @cached_property
    def _colliding(self) -> tuple[Int64, Int64]:
        """Offsets and C-order positions of a view that overlaps itself, sorted by offset.

        All of them at once: formats refuse such views unless they are small.
        """
        offsets, positions = self._elements(np.arange(self._count, dtype=np.int64))
        order = np.lexsort((positions, offsets))
        return offsets[order], positions[order]

    @property
    def _count(self) -> int:
        """The number of indices, but for those that expansion adds."""
        return math.prod(size for _, size, _ in self._axes)

    def between(self, low: int, high: int) -> tuple[Int64, Int64]:
        """Offsets and C-order positions of the elements at offsets from `low` to before `high`.

        Offsets ascend; an expanded element comes once, at its first position.
        """
        if self.overlaps_itself:
            offsets, positions = self._colliding
            part = slice(*np.searchsorted(offsets, (low, high)))
            return offsets[part], positions[part]
        start, stop = self._rank(low), self._rank(high)
        return self._elements(np.arange(start, stop, dtype=np.int64))

    def positions(self, offsets: Int64) -> Int64:
        """C-order positions of the elements at `offsets` of a dense view."""
        positions = np.zeros_like(offsets)
        for stride, _, c_stride in self._axes:
            index = offsets // stride  # NumPy divides by one number fast, but not in `divmod`
            offsets = offsets - index * stride
            positions += index * c_stride
        return positions

    def _elements(self, ranks: Int64) -> tuple[Int64, Int64]:
        """Offsets and C-order positions of elements, given their ranks in order of offset."""
        offsets, positions = np.zeros_like(ranks), np.zeros_like(ranks)
        for stride, size, c_stride in reversed(self._axes):
            ranks, index = np.divmod(ranks, size)
            offsets += index * stride
            positions += index * c_stride
        return offsets, positions

    def _rank(self, bound: int) -> int:
        """How many elements lie at offsets below `bound`."""
        if bound <= 0:
            return 0
        rank, inner = 0, self._count
        for stride, size, _ in self._axes:
            inner //= size
            index = (bound - 1) // stride
            if index >= size:
                return rank + size * inner
            rank += index * inner
            bound -= index * stride
        return rank + 1
