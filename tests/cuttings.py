"""Shapes, and boxes that they are cut into."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from numpy.typing import NDArray

from gradtool.core.shapes.boxes import Box

SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@st.composite
def cuttings(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Box]]:
    """A shape, and boxes that it is cut into."""
    shape = draw(SHAPES)
    return shape, draw(boxes_of(shape))


@st.composite
def boxes_of(draw: st.DrawFn, shape: tuple[int, ...]) -> list[Box]:
    """Boxes made of a shape by cutting boxes in two, again and again."""
    boxes = [Box((0,) * len(shape), shape)]
    for _ in range(draw(st.integers(0, 6)) if shape else 0):
        box = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        axis = draw(st.integers(0, len(shape) - 1))
        at = draw(st.integers(0, box.sizes[axis]))
        for start, size in ((0, at), (at, box.sizes[axis] - at)):
            offsets, sizes = list(box.offsets), list(box.sizes)
            offsets[axis] += start
            sizes[axis] = size
            boxes.append(Box(tuple(offsets), tuple(sizes)))
    return draw(st.permutations(boxes))


def part_of(array: NDArray[Any], box: Box) -> NDArray[Any]:
    """The elements of a box."""
    return array[tuple(map(slice, box.offsets, box.ends))]
