"""Two tensors of one shape are compared element by element, however each of them is stored."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from cuttings import SHAPES, SHAPES_WITH_ROWS, boxes_of, cut_out, rows_among
from dumps import WINDOW, stored
from hypothesis import given, settings
from hypothesis import strategies as st
from storing import TYPES, Codes, Way, in_chunks, stored_as, ways, written

from gradtool.core.dtypes import DTYPES
from gradtool.core.locations import Inline
from gradtool.core.shapes.boxes import Box, covering_problem
from gradtool.core.shapes.rows import Cut
from gradtool.core.tensors import Chunk
from gradtool.engine.backend import PAIR_NBYTES
from gradtool.engine.numpy_backend.backend import NUMPY
from gradtool.engine.progress import whole_progress
from gradtool.engine.reading.measure import reduce_tasks
from gradtool.engine.reading.pairs.comparisons import ByteEquality, Differing
from gradtool.engine.reading.pairs.plan import pair_tasks
from gradtool.engine.reading.pairs.regions import Pair
from gradtool.engine.reading.pairs.slicing import RowsOfStream, rows_of
from gradtool.engine.reading.reductions import Statistics
from gradtool.engine.schedule import Runner
from gradtool.formats import open_checkpoint


def compared(pair: Pair, block_nbytes: int = PAIR_NBYTES, threads: int = 2) -> Differing:
    """What differs between two tensors."""
    by_file, streams = pair_tasks([pair], block_nbytes)
    tasks = [*chain.from_iterable(by_file.values()), *streams]
    with ThreadPoolExecutor(threads) as executor:
        runner = Runner(executor, WINDOW, NUMPY, whole_progress(None))
        _, found, *_ = reduce_tasks(tasks, Statistics(2.0), ByteEquality(), runner)
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
    block_nbytes=st.sampled_from([1, 40, 300, PAIR_NBYTES]),
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
    assert 2 * array.nbytes > PAIR_NBYTES
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


@settings(max_examples=200)
@given(
    shape=SHAPES_WITH_ROWS,
    data=st.data(),
    dtype=TYPES,
    one=ways(),
    two=ways(),
    is_cut=st.tuples(st.booleans(), st.booleans()),
    count=st.sampled_from([0, 1, 9]),
    block_nbytes=st.sampled_from([1, 40, 300, PAIR_NBYTES]),
    seed=st.integers(0, 999),
)
def test_rows_are_those_that_numpy_cuts_out(
    shape: tuple[int, ...],
    data: st.DataObject,
    dtype: str,
    one: Way,
    two: Way,
    is_cut: tuple[bool, bool],
    count: int,
    block_nbytes: int,
    seed: int,
    scratch: Path,
) -> None:
    """Rows of one tensor against a whole one, in either order; of both, against each other."""

    def boxes(whole: tuple[int, ...], side: int) -> list[Box] | None:
        return data.draw(boxes_of(whole)) if is_cut[side] else None

    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, (*shape, DTYPES[dtype].itemsize), dtype=np.uint8)
    cut = data.draw(rows_among(shape[0]))
    altered, places = changed(cut_out(codes, cut), count, rng)
    expected = Differing(len(places), min(places, default=None))
    rows = rows_of(stored_as(codes, dtype, boxes(shape, 0), one, scratch), cut)
    whole = stored_as(altered, dtype, boxes(altered.shape[:-1], 1), two, scratch)
    assert rows.shape == whole.shape
    assert compared(Pair(rows, whole), block_nbytes) == expected
    assert compared(Pair(whole, rows), block_nbytes, threads=1) == expected
    # The same rows in the middle of another tensor.
    lower, upper = (
        rng.integers(0, 256, (n, *codes.shape[1:]), dtype=np.uint8)
        for n in data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    )
    middle = altered[None] if cut.is_one else altered
    wide = np.concatenate([lower, middle, upper])
    there = Cut(len(lower), len(lower) + len(middle), cut.is_one)
    others = rows_of(stored_as(wide, dtype, boxes(wide.shape[:-1], 1), two, scratch), there)
    assert compared(Pair(rows, others), block_nbytes) == expected


def test_a_chunk_without_elements_is_no_part_of_a_row(tmp_path: Path) -> None:
    array = np.array([[1.0, 2.0]], np.float32)
    whole, empty, row = stored(tmp_path, "F32", [array, array[:0], array[0]])
    chunks = (Chunk(Box((0, 0), (0, 2)), empty), Chunk(Box((0, 0), (1, 2)), whole))
    cut = replace(whole, extents=(), chunks=chunks)
    found = rows_of(cut, Cut(0, 1, is_one=True))
    assert covering_problem(found.shape, [chunk.box for chunk in found.chunks]) is None
    assert compared(Pair(found, row)) == Differing()


@given(
    periods=st.integers(1, 5),
    period=st.integers(1, 40),
    data=st.data(),
    max_bytes=st.integers(1, 90),
)
def test_a_stream_of_rows_comes_in_pieces_of_the_size_that_is_asked_for(
    periods: int, period: int, data: st.DataObject, max_bytes: int
) -> None:
    start = data.draw(st.integers(0, period - 1))
    stop = data.draw(st.integers(start + 1, period))
    whole = np.random.default_rng(0).bytes(periods * period)
    found = RowsOfStream(Inline(whole), period, start, stop)
    pieces = [bytes(piece) for piece in found.pieces(max_bytes)]
    expected = b"".join(whole[n * period + start : n * period + stop] for n in range(periods))
    assert b"".join(pieces) == expected
    assert found.nbytes == len(expected)
    assert [len(piece) for piece in pieces[:-1]] == [max_bytes] * (len(pieces) - 1)
    assert len(pieces) == math.ceil(len(expected) / max_bytes)


@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_of_a_large_stream(order: str, scratch: Path) -> None:
    """Of several periods, each longer than what is looked at together."""
    codes = np.random.default_rng(1).integers(0, 256, (400_000, 3, 4), dtype=np.uint8)
    way = Way("stream" if order == "C" else "turned stream", 1, swapped=False, negated=False)
    spec = written(codes, "F32", way, scratch)
    assert spec.stream is not None and spec.stream.nbytes > 4 << 20
    for cut in (Cut(0, 7), Cut(123_456, 390_001), Cut(399_999, 400_000)):
        rows = written(
            cut_out(codes, cut), "F32", Way("plain", 1, swapped=False, negated=False), scratch
        )
        assert compared(Pair(rows_of(spec, cut), rows)) == Differing()
