"""Where the stored parts of two tensors meet, and in which blocks they are walked together."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradtool.core.shapes.boxes import Box
from gradtool.core.shapes.strides import contiguous_strides, is_dense
from gradtool.core.tensors import TensorSpec
from gradtool.engine.overlaps.views import Int64


@dataclass(frozen=True, slots=True)
class Pair:
    """Two tensors to compare; `box` is the part of the first that the second is, None for all.

    ValueError where they are not of one shape.
    """

    first: TensorSpec
    second: TensorSpec
    box: Box | None = None

    def __post_init__(self) -> None:
        if self.box is None and self.first.shape == self.second.shape:
            return
        compared = self.first.shape if self.box is None else self.box.sizes
        if self.second.shape != compared or not self.whole.fits(self.first.shape):
            problem = f"{self.first.name!r}: a copy of the shape {list(self.second.shape)}"
            raise ValueError(f"{problem} for {self.whole} of {list(self.first.shape)}")

    @property
    def whole(self) -> Box:
        """What is compared, in the shape of the first."""
        return _whole(self.first) if self.box is None else self.box

    @property
    def numel(self) -> int:
        """How many elements are compared."""
        return self.second.numel

    @property
    def is_plain(self) -> bool:
        """Whether both are stored in one piece, in C order, and compared whole."""
        a, b = self.first, self.second
        is_cut = self.box is not None or a.chunks or b.chunks
        return not is_cut and a.strides is None and b.strides is None

    def region(self, number: int) -> Region:
        """The only region of a plain pair, which is at position `number`."""
        whole = _whole(self.first)
        sides = Side(whole, self.first), Side(whole, self.second)
        return Region(number, self.first.shape, whole, *sides)

    @property
    def nbytes(self) -> int:
        """Bytes to read."""
        return self.numel * (self.first.dtype.itemsize + self.second.dtype.itemsize)


@dataclass(frozen=True, slots=True)
class Places:
    """Elements of a box of a shape, in the order of a walk through it.

    `order` has the strides of a tensor of the box's sizes without gaps: the walk goes through it as
    it would be stored.
    """

    shape: tuple[int, ...]
    box: Box
    order: tuple[int, ...]

    @property
    def is_ascending(self) -> bool:
        """Whether positions grow with every step."""
        strides = [s for s, size in zip(self.order, self.box.sizes, strict=True) if size > 1]
        return strides == sorted(strides, reverse=True)

    def positions(self, steps: NDArray[np.intp]) -> Int64:
        """The C-order positions, in the shape, of the elements that many steps into the walk."""
        rest = steps.astype(np.int64)
        c_strides = contiguous_strides(self.shape)
        start = sum(map(math.prod, zip(self.box.offsets, c_strides, strict=True)))
        positions = np.full_like(rest, start)
        axes = sorted(zip(self.order, self.box.sizes, c_strides, strict=True), reverse=True)
        for stride, size, c_stride in axes:
            if size > 1:
                index, rest = np.divmod(rest, stride)
                positions += index * c_stride
        return positions


class Side(NamedTuple):
    """A stored part of a tensor, and the box of the shape that it holds."""

    box: Box
    spec: TensorSpec

    def within(self, box: Box) -> Box:
        """A box of the shape, as one of the part's own."""
        return box.moved([-offset for offset in self.box.offsets]) if any(self.box.offsets) else box


class Region(NamedTuple):
    """A box that lies in one stored part of both tensors of a pair.

    `pair` is the pair's position in the plan, `shape` that of its first tensor.
    """

    pair: int
    shape: tuple[int, ...]
    box: Box
    first: Side
    second: Side

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both parts."""
        return self.first, self.second

    @property
    def order(self) -> tuple[int, ...] | None:
        """The strides in which both store it without gaps; None if there are none."""
        first, second = _strides(self.first.spec, self.box.sizes), None
        if not _are_stored_alike(self.first.spec, self.second.spec):
            second = _strides(self.second.spec, self.box.sizes)
        is_common = second in (None, first) and 0 not in first and is_dense(self.box.sizes, first)
        return first if is_common else None

    @property
    def itemsize(self) -> int:
        """Bytes of an element of both together."""
        return self.first.spec.dtype.itemsize + self.second.spec.dtype.itemsize

    def tiles(self, most: int) -> Iterator[Box]:
        """Boxes of at most `most` elements that it is cut into."""
        strides = tuple(_strides(side.spec, self.box.sizes) for side in self.sides)
        tile = _tile(self.box.sizes, strides, most)
        ends = self.box.ends
        starts = map(range, self.box.offsets, ends, tile)
        for offsets in itertools.product(*starts):
            rest = (end - offset for end, offset in zip(ends, offsets, strict=True))
            yield Box(offsets, tuple(map(min, tile, rest)))


def regions(number: int, pair: Pair) -> Iterator[Region]:
    """All regions of a pair, which is at position `number`: each compared element is in one."""
    offsets, second = pair.whole.offsets, sides_of(pair.second)
    if any(offsets):
        second = [Side(side.box.moved(offsets), side.spec) for side in second]
    for box, one, other in meetings(sides_of(pair.first), second):
        yield Region(number, pair.first.shape, box, one, other)


def sides_of(spec: TensorSpec) -> list[Side]:
    """The parts of a tensor that have elements."""
    if not spec.chunks:
        return [Side(_whole(spec), spec)] if spec.numel else []
    return [Side(chunk.box, chunk.stored) for chunk in spec.chunks if chunk.box.numel]


def _whole(spec: TensorSpec) -> Box:
    return Box((0,) * len(spec.shape), spec.shape)


def meetings(first: Sequence[Side], second: Sequence[Side]) -> Iterator[tuple[Box, Side, Side]]:
    """The boxes that parts of both have in common, each with the two parts.

    Parts of the second are sorted along the axis on which they differ most: of those that a part of
    the first may meet, few are tried in vain.
    """
    if not first or not second:
        return
    if len(first) == len(second) == 1 and first[0].box == second[0].box:
        yield first[0].box, first[0], second[0]
        return
    differing = [
        len(set(column)) for column in zip(*(side.box.offsets for side in second), strict=True)
    ]
    axis = max(range(len(differing)), key=differing.__getitem__)
    ordered = sorted(second, key=lambda side: side.box.offsets[axis])
    starts = [side.box.offsets[axis] for side in ordered]
    longest = max(side.box.sizes[axis] for side in ordered)
    for one in first:
        start, end = one.box.offsets[axis], one.box.ends[axis]
        for other in ordered[bisect_left(starts, start - longest + 1) : bisect_left(starts, end)]:
            common = one.box.common(other.box)
            if common is not None:
                yield common, one, other


def _are_stored_alike(one: TensorSpec, other: TensorSpec) -> bool:
    """Whether the same strides lead through both."""
    return one.shape == other.shape and one.strides == other.strides


def _strides(spec: TensorSpec, sizes: Sequence[int]) -> tuple[int, ...]:
    """The strides of a box of a part; 1 where no step is made."""
    strides = contiguous_strides(spec.shape) if spec.strides is None else spec.strides
    return tuple(stride if size > 1 else 1 for stride, size in zip(strides, sizes, strict=True))


def _tile(
    sizes: tuple[int, ...], strides_of: Sequence[tuple[int, ...]], most: int
) -> tuple[int, ...]:
    """Sizes of boxes of at most `most` elements, of which each side has rows as long as possible.

    The first side's rows are the root of that, unless the second has the same ones.
    """
    tile = [1] * len(sizes)
    for part, strides in enumerate(strides_of, 1):
        budget = math.floor(most ** (part / len(strides_of)))
        fastest_first = sorted(range(len(sizes)), key=lambda axis: (strides[axis], -axis))
        for axis in fastest_first:
            tile[axis] = min(sizes[axis], tile[axis] * max(budget // math.prod(tile), 1))
    return tuple(tile)
