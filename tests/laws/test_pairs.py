"""Two tensors of one shape are compared element by element, however each of them is stored."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from cuttings import SHAPES, boxes_of
from dumps import NUMPY_TYPES, WINDOW, codes_type, stored
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradtool.core.dtypes import DTYPES
from gradtool.core.locations import Inline
from gradtool.core.shapes.boxes import Box
from gradtool.core.shapes.strides import contiguous_strides
from gradtool.core.tensors import Chunk, TensorSpec
from gradtool.engine.numpy_backend.backend import NUMPY
from gradtool.engine.progress import whole_progress
from gradtool.engine.reading.measure import reduce_tasks
from gradtool.engine.reading.pairs.comparisons import ByteEquality, Differing
from gradtool.engine.reading.pairs.plan import BLOCK_NBYTES, pair_tasks
from gradtool.engine.reading.pairs.regions import Pair
from gradtool.engine.reading.reductions import Statistics
from gradtool.engine.schedule import Runner
from gradtool.formats import open_checkpoint

TYPES = st.sampled_from([*NUMPY_TYPES, "C32"])
Codes = NDArray[np.uint8]
"""Elements as rows of bytes: the last axis is not one of the tensor's."""


@dataclass(frozen=True)
class Way:
    """How a tensor is stored: what is true of its elements, and where they lie."""

    kind: str
    files: int
    swapped: bool
    negated: bool


@st.composite
def ways(draw: st.DrawFn) -> Way:
    kinds = ["plain", "turned", "gaps", "stream", "turned stream"]
    return Way(
        kind=draw(st.sampled_from(kinds)),
        files=draw(st.integers(1, 3)),
        swapped=draw(st.booleans()),
        negated=draw(st.booleans()),
    )


def written(codes: Codes, dtype: str, way: Way, directory: Path) -> TensorSpec:
    """The elements stored in that way, under the name `t`."""
    shape = codes.shape[:-1]
    raw = codes.reshape(-1, codes.shape[-1]).view(codes_type(dtype)).copy()
    if way.negated:
        raw ^= raw.dtype.type(1 << raw.dtype.itemsize * 8 - 1)
    if way.swapped:
        raw = raw.byteswap()
    elements = raw.view(np.uint8).reshape(codes.shape)
    strides = None
    if way.kind.startswith("turned"):
        elements = np.moveaxis(elements, -1, 0).T.copy() if elements.ndim > 2 else elements
        strides = contiguous_strides(shape[::-1])[::-1]
    if way.kind == "gaps" and elements.size:
        wide = np.full((*(2 * size for size in shape), codes.shape[-1]), 0xA5, np.uint8)
        wide[(slice(None, None, 2),) * len(shape)] = elements
        strides = tuple(2 * stride for stride in contiguous_strides([2 * n for n in shape]))
        touched = 1 + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
        elements = wide.reshape(-1, codes.shape[-1])[:touched]
    flat = elements.reshape(-1, codes.shape[-1])
    rows = flat.view(f"V{codes.shape[-1]}").reshape(-1)
    (spec,) = stored(directory, dtype, [rows], parts=way.files)
    spec = replace(
        spec,
        name="t",
        shape=shape,
        strides=strides,
        big_endian=way.swapped,
        is_negated=way.negated,
    )
    if way.kind.endswith("stream"):
        return replace(spec, extents=(), stream=Inline(elements.tobytes()))
    return spec


def in_chunks(codes: Codes, dtype: str, boxes: list[Box], way: Way, directory: Path) -> TensorSpec:
    """The same cut into boxes, each of which is stored in that way."""
    chunks = []
    for box in boxes:
        part = codes[tuple(map(slice, box.offsets, box.ends))]
        chunks.append(Chunk(box, written(np.ascontiguousarray(part), dtype, way, directory)))
    return TensorSpec("t", DTYPES[dtype], codes.shape[:-1], chunks=tuple(chunks))


def compared(pair: Pair, block_nbytes: int = BLOCK_NBYTES, threads: int = 2) -> Differing:
    """What differs between two tensors."""
    by_file, streams = pair_tasks([pair], block_nbytes)
    tasks = [*chain.from_iterable(by_file.values()), *streams]
    with ThreadPoolExecutor(threads) as executor:
        runner = Runner(executor, WINDOW, NUMPY, whole_progress(None))
        _, found = reduce_tasks(tasks, Statistics(2.0), ByteEquality(), runner)
    return found.get(0, Differing())


def changed(codes: Codes, count: int, rng: np.random.Generator) -> tuple[Codes, list[int]]:
    """The elements with one bit flipped in some of them, and where."""
    rows = codes.reshape(-1, codes.shape[-1]).copy()
    places = rng.choice(len(rows), min(count, len(rows)), replace=False)
    for place in places:
        rows[place, rng.integers(rows.shape[1])] ^= 1 << rng.integers(8)
    return rows.reshape(codes.shape), sorted(int(place) for place in places)


@settings(max_examples=300)
@given(
    shape=SHAPES,
    data=st.data(),
    dtype=TYPES,
    one=ways(),
    two=ways(),
    cut=st.tuples(st.booleans(), st.booleans()),
    count=st.sampled_from([0, 0, 1, 2, 9, 999]),
    block_nbytes=st.sampled_from([1, 40, 300, BLOCK_NBYTES]),
    seed=st.integers(0, 999),
)
def test_what_differs_is_counted_and_found(
    shape: tuple[int, ...],
    data: st.DataObject,
    dtype: str,
    one: Way,
    two: Way,
    cut: tuple[bool, bool],
    count: int,
    block_nbytes: int,
    seed: int,
    scratch: Path,
) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, (*shape, DTYPES[dtype].itemsize), dtype=np.uint8)
    altered, places = changed(codes, count, rng)
    specs = []
    for elements, way, is_cut in zip((codes, altered), (one, two), cut, strict=True):
        if is_cut:
            boxes = data.draw(boxes_of(shape))
            specs.append(in_chunks(elements, dtype, boxes, way, scratch))
        else:
            specs.append(written(elements, dtype, way, scratch))
    expected = Differing(len(places), min(places, default=None))
    first, second = specs
    assert compared(Pair(first, second), block_nbytes) == expected
    assert compared(Pair(second, first), block_nbytes, threads=1) == expected


def test_deflated_arrays_are_compared_in_either_order(tmp_path: Path) -> None:
    array = np.random.default_rng(3).standard_normal((700, 1100)).astype(np.float32)
    assert 2 * array.nbytes > BLOCK_NBYTES
    other = array.copy()
    other[699, 1] += 1
    other[2, 3] += 1
    arrays = {"c": array, "f": np.asfortranarray(array), "other": np.asfortranarray(other)}
    np.savez_compressed(tmp_path / "deflated.npz", **arrays)
    np.save(tmp_path / "plain.npy", array)
    specs = {spec.name: spec for spec in open_checkpoint(str(tmp_path / "deflated.npz")).tensors}
    (plain,) = open_checkpoint(str(tmp_path / "plain.npy")).tensors
    assert specs["f"].stream is not None
    for first in (plain, specs["c"], specs["f"]):
        for second in (plain, specs["c"], specs["f"]):
            assert compared(Pair(first, second)) == Differing()
        assert compared(Pair(first, specs["other"])) == Differing(2, 2 * 1100 + 3)
        assert compared(Pair(specs["other"], first)) == Differing(2, 2 * 1100 + 3)


def test_elements_of_two_types_are_never_the_same(tmp_path: Path) -> None:
    zeros = np.zeros((3, 4), np.float32)
    (one,) = stored(tmp_path, "F32", [zeros])
    (other,) = stored(tmp_path, "F64", [zeros.astype(np.float64)])
    assert compared(Pair(one, other)) == Differing(12, 0)


def test_a_stream_may_be_one_chunk_of_several(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    (whole,) = stored(tmp_path, "F32", [array])
    array[3, 1] = -1
    halves = stored(tmp_path, "F32", [array[:2], array[2:]])
    halves[0] = replace(halves[0], extents=(), stream=Inline(array[:2].tobytes()))
    boxes = [Box((0, 0), (2, 3)), Box((2, 0), (2, 3))]
    chunks = tuple(Chunk(box, half) for box, half in zip(boxes, halves, strict=True))
    cut = replace(whole, extents=(), chunks=chunks)
    assert compared(Pair(whole, cut)) == compared(Pair(cut, whole)) == Differing(1, 10)
