"""Boxes: parts of a tensor's global shape, as ranks hold them and layouts store them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from gradtool.core.shapes.strides import contiguous_strides, unravel

MOST_IRREGULAR: Final = 128
"""Boxes that no cut sets apart: telling whether they overlap takes time by the square of them."""

MOST_CUTS: Final = 32
"""Cuts, one through what another left, that set boxes apart: a grid takes one for each axis."""


@dataclass(frozen=True, slots=True)
class Box:
    """The elements of a global shape from index `offsets` on, `sizes` of them on each axis."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.sizes)

    @property
    def ends(self) -> tuple[int, ...]:
        """The index after the last one on each axis."""
        return tuple(map(sum, zip(self.offsets, self.sizes, strict=True)))

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether it lies inside the shape."""
        return len(self.offsets) == len(self.sizes) == len(shape) and all(
            offset + size <= whole
            for offset, size, whole in zip(self.offsets, self.sizes, shape, strict=True)
        )

    def overlaps(self, other: Box) -> bool:
        """Whether the two have an element in common."""
        pairs = zip(self.offsets, self.ends, other.offsets, other.ends, strict=True)
        return all(max(start, first) < min(end, last) for start, end, first, last in pairs)

    def common(self, other: Box) -> Box | None:
        """The elements that are in both; None if there are none."""
        offsets = tuple(map(max, self.offsets, other.offsets))
        ends = map(min, self.ends, other.ends)
        sizes = tuple(end - offset for end, offset in zip(ends, offsets, strict=True))
        return Box(offsets, sizes) if all(size > 0 for size in sizes) else None

    def moved(self, by: Sequence[int]) -> Box:
        """The box that begins `by` later on each axis."""
        return Box(tuple(map(sum, zip(self.offsets, by, strict=True))), self.sizes)

    def position(self, position: int, shape: Sequence[int]) -> int:
        """The C-order position in the shape of the element at C-order `position` in the box.

        Ascending: the first of some elements of the box is the first of them in the shape.
        """
        index = unravel(position, self.sizes)
        places = zip(self.offsets, index, contiguous_strides(shape), strict=True)
        return sum((offset + step) * stride for offset, step, stride in places)

    def __str__(self) -> str:
        ranges = zip(self.offsets, self.ends, strict=True)
        return f"[{', '.join(f'{start}:{end}' for start, end in ranges)}]"


class Held(NamedTuple):
    """A box of a whole tensor, and the index of its first element in what is held of the tensor."""

    box: Box
    offsets: tuple[int, ...]


def boxes_of_range(shape: Sequence[int], start: int, stop: int) -> Iterator[Box]:
    """The boxes that C-order positions `start` to `stop` of a shape consist of, in C order."""
    if start >= stop:
        return
    if not shape:
        yield Box((), ())
        return
    inner_shape = tuple(shape[1:])
    inner = math.prod(inner_shape)
    (row, skipped), (last, rest) = divmod(start, inner), divmod(stop, inner)
    if row == last or skipped:
        end = rest if row == last else inner
        for box in boxes_of_range(inner_shape, skipped, end):
            yield Box((row, *box.offsets), (1, *box.sizes))
        if row == last:
            return
        row += 1
    if row < last:
        yield Box((row, *(0 for _ in inner_shape)), (last - row, *inner_shape))
    for box in boxes_of_range(inner_shape, 0, rest):
        yield Box((last, *box.offsets), (1, *box.sizes))


def covering_problem(shape: Sequence[int], boxes: Sequence[Box]) -> str | None:
    """Why the boxes are not all elements of the shape, each of them once; None if they are."""
    for box in boxes:
        if not box.fits(shape):
            return f"its box {box} lies outside of its shape {list(shape)}"
    overlap = _overlap([box for box in boxes if box.numel])
    if overlap is not None:
        return "its boxes {} and {} overlap".format(*overlap)
    covered, numel = sum(box.numel for box in boxes), math.prod(shape)
    if covered != numel:
        return f"its boxes hold {covered:,} of its {numel:,} elements"
    return None


def _overlap(boxes: Sequence[Box], levels: int = MOST_CUTS) -> tuple[Box, Box] | None:
    """Two boxes that overlap; boxes are set apart along one axis after another, like cut glass."""
    if len(boxes) < 2:
        return None
    for axis in range(len(boxes[0].sizes) if levels else 0):
        parts = _apart(boxes, axis)
        if len(parts) > 1:
            pairs = (_overlap(part, levels - 1) for part in parts)
            return next((pair for pair in pairs if pair is not None), None)
    if len(boxes) > MOST_IRREGULAR:
        raise ValueError(f"{len(boxes):,} boxes in no grid")
    pairs_of_boxes = itertools.combinations(boxes, 2)
    return next((pair for pair in pairs_of_boxes if pair[0].overlaps(pair[1])), None)


def _apart(boxes: Sequence[Box], axis: int) -> list[list[Box]]:
    """The boxes in groups of which no two have an index of the axis in common."""
    groups: list[list[Box]] = []
    end = -1
    for box in sorted(boxes, key=lambda box: box.offsets[axis]):
        if box.offsets[axis] >= end:
            groups.append([])
        groups[-1].append(box)
        end = max(end, box.offsets[axis] + box.sizes[axis])
    return groups
