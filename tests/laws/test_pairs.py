"""Two tensors of one shape are compared element by element, however each of them is stored."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
from cuttings import SHAPES, boxes_of
from dumps import WINDOW, stored
from hypothesis import given, settings
from hypothesis import strategies as st
from storing import TYPES, Codes, Way, in_chunks, ways, written

from gradtool.core.dtypes import DTYPES
from gradtool.core.locations import Inline
from gradtool.core.shapes.boxes import Box
from gradtool.core.tensors import Chunk
from gradtool.engine.backend import PAIR_NBYTES
from gradtool.engine.numpy_backend.backend import NUMPY
from gradtool.engine.progress import whole_progress
from gradtool.engine.reading.measure import reduce_tasks
from gradtool.engine.reading.pairs.comparisons import ByteEquality, Differing
from gradtool.engine.reading.pairs.plan import pair_tasks
from gradtool.engine.reading.pairs.regions import Pair
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
