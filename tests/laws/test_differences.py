"""How far apart two tensors are is what exact arithmetic says, however each of them is stored."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from backends import BACKENDS
from comparing.exact import Exact, exact
from cuttings import SHAPES, SHAPES_WITH_ROWS, boxes_of, cut_out, rows_among
from dumps import NUMPY_TYPES, WINDOW
from hypothesis import given, settings
from hypothesis import strategies as st
from storing import Codes, Way, in_chunks, stored_as, ways, written

from gradtool.core.comparing.difference import TensorDifference
from gradtool.core.comparing.distance import NO_ELEMENTS, Distance
from gradtool.core.comparing.tolerance import EXACT, Tolerance
from gradtool.core.dtypes import DTYPES
from gradtool.core.locations import Extent
from gradtool.core.tensors import TensorSpec
from gradtool.engine.backend import PAIR_NBYTES, Backend
from gradtool.engine.numpy_backend.backend import NUMPY
from gradtool.engine.progress import whole_progress
from gradtool.engine.reading.measure import reduce_tasks
from gradtool.engine.reading.pairs.distances import Distances
from gradtool.engine.reading.pairs.plan import pair_tasks
from gradtool.engine.reading.pairs.regions import Pair
from gradtool.engine.reading.pairs.slicing import rows_of
from gradtool.engine.reading.reductions import Statistics
from gradtool.engine.schedule import Runner
from gradtool.storage.reader import open_source

BOUND = 1e-12
TOLERANCE = Tolerance(rtol=1e-3, atol=1e-6, ulps=1000)
REAL = [name for name in NUMPY_TYPES if DTYPES[name].component is None]
PAIRS = st.one_of(
    st.sampled_from([*REAL, "C32", "C64", "C128"]).map(lambda name: (name, name)),
    st.tuples(st.sampled_from(REAL), st.sampled_from(REAL)),
)


def distances(
    pairs: list[Pair],
    block_nbytes: int = PAIR_NBYTES,
    threads: int = 2,
    backend: Backend = NUMPY,
) -> list[Distance]:
    """How far apart the tensors of each pair are."""
    by_file, streams = pair_tasks(pairs, block_nbytes)
    tasks = [*chain.from_iterable(by_file.values()), *streams]
    with ThreadPoolExecutor(threads) as executor:
        runner = Runner(executor, WINDOW, backend, whole_progress(None))
        _, found, *_ = reduce_tasks(tasks, Statistics(2.0), Distances(TOLERANCE), runner)
    return [found.get(n, NO_ELEMENTS) for n in range(len(pairs))]


def figures(a: TensorSpec, b: TensorSpec, block_nbytes: int, backend: Backend) -> TensorDifference:
    (found,) = distances([Pair(a, b)], block_nbytes, backend=backend)
    return TensorDifference(a, b, found, EXACT)


def assert_near(found: float | None, true: float | None, slack: float = 0.0) -> None:
    if true is None or found is None or not math.isfinite(true):
        assert found == true
    else:
        # What is no normal number has fewer digits.
        assert abs(found - true) <= max(BOUND * abs(true), slack, 1e-307)


def assert_exact(found: TensorDifference, true: Exact) -> None:
    assert_near(found.rel_l2, true.rel_l2)
    assert_near(found.norm_ratio, true.norm_ratio)
    assert_near(found.cosine, true.cosine, BOUND)
    ratio = 0.0 if true.norm_ratio is None else true.norm_ratio
    assert_near(found.best_scale, true.best_scale, BOUND * ratio)
    if true.cosine is not None and abs(true.cosine) > 1e-3:
        assert_near(found.rel_l2_scaled, true.rel_l2_scaled, BOUND)
    assert found.max_abs_diff is not None
    assert_near(found.max_abs_diff, true.max_abs_diff)
    assert found.opposite_signs in (None, true.opposite_signs)
    assert found.max_ulps == true.max_ulps
    assert found.differing == len(true.differing)
    assert found.distance is not None
    assert found.distance.zero_signs == true.zero_signs
    positions = [sample.position for sample in found.distance.samples]
    assert positions == (true.differing if len(true.differing) <= 16 else true.differing[:1])
    assert found.identical == (not true.differing and found.a.dtype == found.b.dtype)


def related(codes: Codes, dtypes: tuple[str, str], how: str, rng: np.random.Generator) -> Codes:
    """Elements of the second dtype that have to do with those of the first, or not."""
    first, second = dtypes
    size = DTYPES[second].itemsize
    if how == "unrelated" or (first != second and DTYPES[first].component):
        return rng.integers(0, 256, (*codes.shape[:-1], size), dtype=np.uint8)
    if first == second and how != "scaled":
        altered = codes.reshape(-1, size).copy()
        count = {"equal": 0, "flipped": 1, "rounded": len(altered)}[how]
        for place in rng.choice(len(altered), min(count, len(altered)), replace=False):
            altered[place, rng.integers(size) if how == "flipped" else 0] ^= 1 << rng.integers(8)
        return altered.reshape(codes.shape)
    factor = rng.choice([0.5, -1.0, 3.0, 1 / 3]) if how == "scaled" else 1.0
    real_first, real_second = (DTYPES[name].component or name for name in dtypes)
    with np.errstate(all="ignore"):
        values = np.ascontiguousarray(codes).view(NUMPY_TYPES[real_first]).astype(np.float64)
        changed = (values * factor).astype(NUMPY_TYPES[real_second]).view(np.uint8)
    return changed.reshape(*codes.shape[:-1], size)


def elements(shape: tuple[int, ...], dtype: str, kind: str, rng: np.random.Generator) -> Codes:
    """Any bits, or numbers that gradients might be."""
    size = DTYPES[dtype].itemsize
    if kind == "bits":
        return rng.integers(0, 256, (*shape, size), dtype=np.uint8)
    real = DTYPES[dtype].component or dtype
    count = size // DTYPES[real].itemsize
    values = rng.standard_normal((*shape, count)) * (rng.random((*shape, count)) < 0.8)
    with np.errstate(all="ignore"):
        found: Codes = values.astype(NUMPY_TYPES[real]).view(np.uint8)
    return found.reshape(*shape, size)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=400)
@given(
    shape=SHAPES,
    data=st.data(),
    dtypes=PAIRS,
    kind=st.sampled_from(["bits", "numbers"]),
    how=st.sampled_from(["equal", "flipped", "rounded", "scaled", "unrelated"]),
    one=ways(),
    two=ways(),
    cut=st.tuples(st.booleans(), st.booleans()),
    block_nbytes=st.sampled_from([1, 40, 300, PAIR_NBYTES]),
    seed=st.integers(0, 999),
)
def test_figures_are_what_exact_arithmetic_says(
    shape: tuple[int, ...],
    data: st.DataObject,
    dtypes: tuple[str, str],
    kind: str,
    how: str,
    one: Way,
    two: Way,
    cut: tuple[bool, bool],
    block_nbytes: int,
    seed: int,
    scratch: Path,
    backend: Backend,
) -> None:
    rng = np.random.default_rng(seed)
    codes = elements(shape, dtypes[0], kind, rng)
    others = related(codes, dtypes, how, rng)
    specs = []
    for stored, dtype, way, is_cut in zip((codes, others), dtypes, (one, two), cut, strict=True):
        if is_cut:
            boxes = data.draw(boxes_of(shape))
            specs.append(in_chunks(stored, dtype, boxes, way, scratch))
        else:
            specs.append(written(stored, dtype, way, scratch))
    first, second = specs
    assert_exact(figures(first, second, block_nbytes, backend), exact(codes, others, dtypes))
    back = exact(others, codes, (dtypes[1], dtypes[0]))
    assert_exact(figures(second, first, block_nbytes, backend), back)


@settings(max_examples=100)
@given(
    shape=SHAPES_WITH_ROWS,
    data=st.data(),
    dtypes=PAIRS,
    how=st.sampled_from(["flipped", "rounded", "scaled", "unrelated"]),
    way=ways(),
    is_cut=st.booleans(),
    block_nbytes=st.sampled_from([1, 40, 300, PAIR_NBYTES]),
    seed=st.integers(0, 999),
)
def test_figures_of_rows_are_what_exact_arithmetic_says(
    shape: tuple[int, ...],
    data: st.DataObject,
    dtypes: tuple[str, str],
    how: str,
    way: Way,
    is_cut: bool,
    block_nbytes: int,
    seed: int,
    scratch: Path,
) -> None:
    rng = np.random.default_rng(seed)
    codes = elements(shape, dtypes[0], "numbers", rng)
    cut = data.draw(rows_among(shape[0]))
    boxes = data.draw(boxes_of(shape)) if is_cut else None
    inner = cut_out(codes, cut)
    others = related(inner, dtypes, how, rng)
    rows = rows_of(stored_as(codes, dtypes[0], boxes, way, scratch), cut)
    whole = written(others, dtypes[1], way, scratch)
    assert_exact(figures(rows, whole, block_nbytes, NUMPY), exact(inner, others, dtypes))


@settings(max_examples=100)
@given(
    dtype=st.sampled_from(REAL),
    kinds=st.lists(
        st.tuples(
            st.sampled_from(["bits", "numbers"]),
            st.sampled_from(["equal", "flipped", "rounded", "scaled", "unrelated"]),
            st.integers(0, 40),
        ),
        min_size=2,
        max_size=12,
    ),
    seed=st.integers(0, 999),
)
def test_small_tensors_together_are_what_each_is_by_itself(
    dtype: str,
    kinds: list[tuple[str, str, int]],
    seed: int,
    scratch: Path,
) -> None:
    rng = np.random.default_rng(seed)
    sides: tuple[list[Codes], list[Codes]] = ([], [])
    for kind, how, count in kinds:
        sides[0].append(elements((count,), dtype, kind, rng))
        sides[1].append(related(sides[0][-1], (dtype, dtype), how, rng))
    pairs, singles = [], []
    files = [in_one_file(scratch / f"{n}.bin", dtype, side) for n, side in enumerate(sides)]
    for a, b, first, second in zip(*files, *sides, strict=True):
        pairs.append(Pair(a, b))
        singles.append(exact(first, second, (dtype, dtype)))
    together = distances(pairs)
    for pair, found, true in zip(pairs, together, singles, strict=True):
        assert_exact(TensorDifference(pair.first, pair.second, found, EXACT), true)
        (alone,) = distances([pair])
        assert (found.outside, found.same_nan) == (alone.outside, alone.same_nan)
    assert repr(distances(pairs, threads=1)) == repr(together)  # NaN is not itself


def in_one_file(path: Path, dtype: str, tensors: list[Codes]) -> list[TensorSpec]:
    """The tensors one after another in a file."""
    path.write_bytes(b"".join(codes.tobytes() for codes in tensors))
    with open_source(str(path)) as source:
        file = source.file
    specs, offset = [], 0
    for n, codes in enumerate(tensors):
        extents = (Extent(file, offset, codes.nbytes),) if codes.nbytes else ()
        specs.append(TensorSpec(f"t{n}", DTYPES[dtype], codes.shape[:-1], extents))
        offset += codes.nbytes
    return specs


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_change_no_bit_of_large_tensors(backend: Backend, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    a = rng.standard_normal((900, 3001)).astype(np.float32)
    b = (a * np.float32(0.99) + rng.standard_normal(a.shape) * 1e-4).astype(np.float32)
    (first,) = in_one_file(tmp_path / "a", "F32", [a.view(np.uint8).reshape(900, 3001, 4)])
    (second,) = in_one_file(tmp_path / "b", "F32", [b.view(np.uint8).reshape(900, 3001, 4)])
    pair = Pair(first, second)
    (found,) = distances([pair], threads=1, backend=backend)
    assert distances([pair], threads=4, backend=backend) == [found]
    wide_a, wide_b = a.astype(np.float64).ravel().tolist(), b.astype(np.float64).ravel().tolist()
    aa = math.fsum(x * x for x in wide_a)
    dd = math.fsum((y - x) ** 2 for x, y in zip(wide_a, wide_b, strict=True))
    assert_near(found.rel_l2, math.sqrt(dd / aa))


def test_the_residual_of_a_multiple_does_not_cancel(tmp_path: Path) -> None:
    """`|b|^2 - <a, b>^2 / <a, a>` would have no digit of it."""
    rng = np.random.default_rng(6)
    a = rng.standard_normal(300_000)
    b = a / 3 + rng.standard_normal(a.shape) * 1e-10
    first, second = (
        in_one_file(tmp_path / name, "F64", [x.view(np.uint8).reshape(-1, 8)])[0]
        for name, x in (("a", a), ("b", b))
    )
    (found,) = distances([Pair(first, second)])
    s = math.fsum((a * b).tolist()) / math.fsum((a * a).tolist())
    left = [y - s * x for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    true = math.sqrt(math.fsum(x * x for x in left) / math.fsum((a * a).tolist())) / s
    assert true == pytest.approx(3e-10, rel=0.01)
    assert found.rel_l2_scaled == pytest.approx(true, rel=1e-6)
