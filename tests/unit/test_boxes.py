"""Boxes of a shape: whether they are all of it, each element once, and where their elements are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cuttings import cuttings
from hypothesis import given
from hypothesis import strategies as st

from gradtool.core.shapes.boxes import Box, covering_problem


def counts(shape: tuple[int, ...], boxes: list[Box]) -> np.ndarray:
    """How many of the boxes hold each element."""
    held = np.zeros(shape, int)
    for box in boxes:
        held[tuple(slice(*ends) for ends in zip(box.offsets, box.ends, strict=True))] += 1
    return held


@given(cutting=cuttings())
def test_what_was_cut_apart_is_all_of_it(cutting: tuple[tuple[int, ...], list[Box]]) -> None:
    assert covering_problem(*cutting) is None


@given(
    cutting=cuttings(),
    index=st.integers(0, 9),
    offsets=st.lists(st.integers(-2, 2), min_size=3, max_size=3),
    sizes=st.lists(st.integers(-2, 2), min_size=3, max_size=3),
)
def test_any_other_boxes_are_a_problem_exactly_if_an_element_is_not_held_once(
    cutting: tuple[tuple[int, ...], list[Box]], index: int, offsets: list[int], sizes: list[int]
) -> None:
    shape, boxes = cutting
    index %= len(boxes)
    moved = [max(offset + by, 0) for offset, by in zip(boxes[index].offsets, offsets, strict=False)]
    resized = [max(size + by, 0) for size, by in zip(boxes[index].sizes, sizes, strict=False)]
    boxes[index] = Box(tuple(moved), tuple(resized))
    problem = covering_problem(shape, boxes)
    if not boxes[index].fits(shape):
        assert problem is not None
        assert "outside" in problem
        return
    held = counts(shape, boxes)
    assert (problem is None) == bool((held == 1).all())
    if problem is not None:
        assert ("overlap" in problem) == bool((held > 1).any())


def test_a_pinwheel_lies_in_no_grid() -> None:
    pinwheel = [((0, 0), (1, 2)), ((0, 2), (2, 1)), ((2, 1), (1, 2)), ((1, 0), (2, 1))]
    boxes = [Box(*pair) for pair in [*pinwheel, ((1, 1), (1, 1))]]
    assert covering_problem((3, 3), boxes) is None
    boxes[-1] = Box((1, 1), (2, 1))
    assert covering_problem((3, 3), boxes) == "its boxes [2:3, 1:3] and [1:3, 1:2] overlap"
    assert covering_problem((3, 3), boxes[:-1]) == "its boxes hold 8 of its 9 elements"


def test_many_boxes_of_a_grid_take_little_and_many_of_none_are_refused() -> None:
    grid = [Box((i, j), (1, 1)) for i in range(300) for j in range(300)]
    assert covering_problem((300, 300), grid) is None
    rows = [Box((2 * n, 0), (2, 1)) for n in range(5000)]
    moved = [Box((2 * n + 1, 0), (2, 1)) for n in range(5000)]
    with pytest.raises(ValueError, match="10,000 boxes in no grid"):
        covering_problem((10001, 1), rows + moved)


@given(cutting=cuttings())
def test_positions_in_a_box_are_those_of_the_same_elements(
    cutting: tuple[tuple[int, ...], list[Box]],
) -> None:
    shape, boxes = cutting
    whole = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    for box in boxes:
        held = whole[tuple(slice(*ends) for ends in zip(box.offsets, box.ends, strict=True))]
        found = [box.position(position, shape) for position in range(box.numel)]
        assert found == held.reshape(-1).tolist()
        assert all(first < second for first, second in itertools.pairwise(found))
