"""Shapes, boxes that they are cut into, and views of a storage."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from dumps import stored
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from gradtool.core.locations import Extent
from gradtool.core.shapes.boxes import Box
from gradtool.core.shapes.rows import Cut
from gradtool.core.shapes.strides import is_contiguous, span
from gradtool.core.tensors import Chunk, TensorSpec

STORAGE = 5000
"""Elements of the storage that views are of."""

SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


SHAPES_WITH_ROWS = st.lists(st.integers(0, 5), max_size=2).flatmap(
    lambda sizes: st.integers(1, 7).map(lambda rows: (rows, *sizes))
)


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


@st.composite
def rows_among(draw: st.DrawFn, size: int) -> Cut:
    """Some of so many rows, or one by itself."""
    start = draw(st.integers(0, size - 1))
    if draw(st.booleans()):
        return Cut(start, start + 1, is_one=True)
    return Cut(start, draw(st.integers(start + 1, size)))


def cut_out(array: NDArray[Any], cut: Cut) -> NDArray[Any]:
    """What NumPy makes of it."""
    rows: NDArray[Any] = array[cut.start] if cut.is_one else array[cut.start : cut.stop]
    return rows.copy()


def part_of(array: NDArray[Any], box: Box) -> NDArray[Any]:
    """The elements of a box."""
    return array[tuple(map(slice, box.offsets, box.ends))]


def cut(array: NDArray[Any], boxes: list[Box], directory: Path, files: int) -> TensorSpec:
    """The array as a tensor whose boxes lie in any files, in C order or in Fortran's."""
    parts = [part_of(array, box) for box in boxes]
    turned = [number % 3 == 1 for number in range(len(boxes))]
    flat = [part.T if is_turned else part for part, is_turned in zip(parts, turned, strict=True)]
    stored_parts = stored(directory, "F64", flat, parts=files)
    chunks = []
    for box, part, is_turned in zip(boxes, stored_parts, turned, strict=True):
        whole = replace(part, name="cut", shape=box.sizes)
        if is_turned and part.extents:
            strides = tuple(math.prod(box.sizes[:axis]) for axis in range(len(box.sizes)))
            whole = replace(whole, strides=strides)
        chunks.append(Chunk(box, whole))
    return replace(stored_parts[0], name="cut", shape=array.shape, extents=(), chunks=tuple(chunks))


def storage(seed: int, *, bad: int = 0) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    array = rng.standard_normal(STORAGE)
    array[rng.integers(0, STORAGE, STORAGE // 10)] = 0.0
    array[rng.integers(0, STORAGE, bad)] = math.nan
    return array


def view_of(
    whole: TensorSpec, name: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> TensorSpec:
    """The tensor that torch would call `torch.as_strided(storage, shape, strides, offset)`."""
    (extent,) = whole.extents
    nbytes = span(shape, strides) * 8
    extents = (Extent(extent.file, extent.offset + offset * 8, nbytes),) if nbytes else ()
    kept = None if is_contiguous(shape, strides) else strides
    return replace(whole, name=name, shape=shape, strides=kept, extents=extents)


def as_view(
    array: NDArray[Any], offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> NDArray[Any]:
    return as_strided(array[offset:], shape, tuple(8 * stride for stride in strides))


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """(offset, shape, strides) of any view that stays inside the storage."""
    ndim = draw(st.integers(0, 4))
    shape = tuple(draw(st.integers(0, 7)) for _ in range(ndim))
    strides = tuple(draw(st.sampled_from([0, 1, 2, 3, 7, 8, 21, 50, 150])) for _ in range(ndim))
    room = STORAGE - span(shape, strides)
    return draw(st.integers(0, max(room - 1, 0))), shape, strides
