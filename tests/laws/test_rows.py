"""Rows are measured as if each were a tensor, however their tensor is cut, strided and stored."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuttings import as_view, boxes_of, cut, layouts, storage, view_of
from dumps import NUMPY_TYPES, measured, stored
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import close, exact_norm

import gradtool
from gradtool.core.measurement import Measurement, TensorMeasurement
from gradtool.core.shapes.rows import Bands
from gradtool.core.stats import TensorStats, merge
from gradtool.engine.backend import BLOCK_ELEMENTS, Backend, BatchLimits
from gradtool.engine.numpy_backend.backend import NumpyBackend
from gradtool.engine.numpy_backend.columns import Columns
from gradtool.errors import UsageError

Array = NDArray[Any]


def without_rows(measurement: Measurement) -> str:
    """Every figure of a measurement but those of rows, to the last bit."""
    tensors = [replace(tensor, rows=()) for tensor in measurement.tensors]
    return repr((tensors, measurement.sections, measurement.total))


def assert_rows(tensor: TensorMeasurement, array: Array, bands: Bands, p: float = 2.0) -> None:
    """The rows are those of the array that NumPy walks, and the tensor is their sum."""
    ends = [*bands.cuts]
    assert [(row.start, row.stop) for row in tensor.rows] == list(itertools.pairwise(ends))
    for row in tensor.rows:
        values = [abs(complex(x)) for x in array[row.start : row.stop].reshape(-1)]
        finite = [value for value in values if math.isfinite(value)]
        assert row.stats.numel == len(values)
        assert row.stats.nonfinite == len(values) - len(finite)
        assert row.stats.zeros == finite.count(0.0)
        assert row.stats.max_abs == max(finite, default=0.0)
        assert close(row.finite_norm, exact_norm(finite, p))
        bad = np.argwhere(~np.isfinite(array[row.start : row.stop].astype(complex)))
        first = None if not len(bad) else (int(bad[0][0]) + row.start, *map(int, bad[0][1:]))
        found = row.stats.first_nonfinite
        assert (None if found is None else np.unravel_index(found, array.shape)) == first
    together = merge([row.stats for row in tensor.rows], p)
    for name in ("numel", "nan", "posinf", "neginf", "zeros", "subnormals", "max_abs"):
        assert getattr(together, name) == getattr(tensor.stats, name)
    assert together.first_nonfinite == tensor.stats.first_nonfinite
    assert close(together.finite_norm, tensor.finite_norm, 1e-14)


@st.composite
def bands_of(draw: st.DrawFn, shape: tuple[int, ...]) -> Bands:
    """Each row by itself, or bands cut anywhere."""
    if draw(st.booleans()):
        return Bands.each_row(shape)
    ends = st.integers(0, shape[0])
    ranges = draw(st.lists(st.tuples(ends, ends).map(sorted).map(lambda pair: range(*pair))))
    return Bands.around(ranges, shape)


@given(
    data=st.data(),
    layout=layouts().filter(lambda layout: layout[1] != ()),
    seed=st.integers(0, 50),
    bad=st.sampled_from([0, 0, 600]),
)
def test_of_any_view(
    backend: Backend,
    data: st.DataObject,
    layout: tuple[int, tuple[int, ...], tuple[int, ...]],
    seed: int,
    bad: int,
    scratch: Path,
) -> None:
    array = storage(seed, bad=bad)
    (whole,) = stored(scratch, "F64", [array])
    view, bands = as_view(array, *layout), data.draw(bands_of(layout[1]))
    specs = [view_of(whole, "view", *layout)]
    found = measured(specs, backend=backend, bands={"view": bands})
    assert_rows(found.tensors[0], view, bands)
    assert without_rows(found) == without_rows(measured(specs, backend=backend))


@given(
    data=st.data(),
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple),
    bad=st.sampled_from([0.0, 0.0, 0.2]),
    seed=st.integers(0, 99),
    files=st.integers(1, 3),
)
def test_of_boxes(
    backend: Backend,
    data: st.DataObject,
    shape: tuple[int, ...],
    bad: float,
    seed: int,
    files: int,
    scratch: Path,
) -> None:
    rng = np.random.default_rng(seed)
    array = np.where(rng.random(shape) < bad, math.nan, rng.standard_normal(shape))
    bands = data.draw(bands_of(shape))
    specs = [cut(array, data.draw(boxes_of(shape)), scratch, files)]
    found = measured(specs, backend=backend, bands={"cut": bands})
    assert_rows(found.tensors[0], array, bands)
    assert without_rows(found) == without_rows(measured(specs, backend=backend))


@given(
    data=st.data(),
    shapes=st.lists(
        st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4
    ),
    dtype=st.sampled_from(sorted(NUMPY_TYPES)),
    p=st.sampled_from([2.0, 1.0, 3.0, -1.0, 0.0, math.inf]),
    parts=st.integers(1, 3),
    big_endian=st.booleans(),
    seed=st.integers(0, 99),
)
def test_of_any_type_cut_over_files(
    backend: Backend,
    data: st.DataObject,
    shapes: list[tuple[int, ...]],
    dtype: str,
    p: float,
    parts: int,
    big_endian: bool,
    seed: int,
    scratch: Path,
) -> None:
    rng = np.random.default_rng(seed)
    big_endian = big_endian and dtype in ("F32", "F64")
    arrays = [
        np.where(rng.random(shape) < 0.2, 0.0, rng.standard_normal(shape)).astype(
            NUMPY_TYPES[dtype]
        )
        for shape in shapes
    ]
    kept = [
        array.astype(array.dtype.newbyteorder(">")) if big_endian else array for array in arrays
    ]
    specs = [
        replace(spec, big_endian=big_endian) for spec in stored(scratch, dtype, kept, parts=parts)
    ]
    bands = {spec.name: data.draw(bands_of(spec.shape)) for spec in specs[::2]}
    found = measured(specs, p, backend=backend, bands=bands)
    for tensor, array in zip(found.tensors, arrays, strict=True):
        if tensor.name in bands:
            assert_rows(tensor, array, bands[tensor.name], p)
        else:
            assert tensor.rows == ()
    assert without_rows(found) == without_rows(measured(specs, p, backend=backend))


@dataclass(frozen=True, slots=True)
class Stepping(NumpyBackend):
    """A backend that is given few elements at a time, so that rows lie in many blocks and tasks."""

    limits: BatchLimits  # type: ignore[misc]  # of each by itself


@given(
    data=st.data(),
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=3).map(tuple),
    dtype=st.sampled_from(["F16", "F32", "F64"]),
    spread=st.sampled_from([0.0, 0.2, 0.9]),
    p=st.sampled_from([2.0, 1.0, 3.0, 0.5, -1.0, -2.0, 0.0, math.inf, -math.inf]),
    bad=st.sampled_from([0.0, 0.0, 0.1, 1.0]),
    step=st.integers(1, 40),
    seed=st.integers(0, 999),
)
def test_are_the_same_in_every_order_and_in_steps_of_any_size(
    data: st.DataObject,
    shape: tuple[int, ...],
    dtype: str,
    spread: float,
    p: float,
    bad: float,
    step: int,
    seed: int,
    scratch: Path,
) -> None:
    rng = np.random.default_rng(seed)
    kind = np.finfo(NUMPY_TYPES[dtype])
    exponents = rng.integers(int(spread * kind.minexp), int(spread * kind.maxexp) + 1, shape)
    array = np.ldexp(rng.uniform(0.25, 0.5, shape), exponents).astype(kind.dtype)
    array[rng.random(shape) < 0.05] = 0.0
    array[rng.random(shape) < bad] = rng.choice([math.nan, math.inf, -math.inf])
    order = data.draw(st.permutations(range(len(shape))))
    (spec,) = stored(scratch, dtype, [np.ascontiguousarray(array.transpose(order))])
    kept = np.empty(spec.shape).transpose(np.argsort(order))
    strides = None if kept.flags.c_contiguous else tuple(n // 8 for n in kept.strides)
    spec = replace(spec, shape=shape, strides=strides)
    backend, bands = Stepping(BatchLimits(3 * step * 8, step, 4, 8)), data.draw(bands_of(shape))
    found = measured([spec], p, backend=backend, bands={"t.0": bands})
    assert_rows(found.tensors[0], array, bands, p)


@given(
    terms=st.lists(
        st.tuples(st.floats(1e-30, 1e30), st.integers(-60, 60)), min_size=1, max_size=60
    ),
    bands=st.integers(1, 3),
)
def test_sums_of_many_blocks_are_rounded_once(terms: list[tuple[float, int]], bands: int) -> None:
    whole = Columns.empty(2.0, 5, bands)
    for term, _ in terms:
        whole.add(Columns.of([TensorStats(2.0, 1, term)], 2.0), np.array([5 + bands - 1]))
    *others, last = whole.stats()
    assert [one.numel for one in others] == [0] * (bands - 1)
    assert last.numel == len(terms)
    assert close(last.power_sum, math.fsum(term for term, _ in terms), 2.0**-52)
    scaled = Columns.empty(2.0, 0, 1)
    for term, exponent in terms:
        scaled.add(Columns.of([TensorStats(2.0, 1, term, math.ldexp(1.0, exponent))], 2.0))
    (one,) = scaled.stats()
    true = math.fsum(math.ldexp(term, 2 * exponent) for term, exponent in terms)
    assert close(math.ldexp(one.power_sum, 2 * int(math.log2(one.scale))), true, 1e-15)


def test_a_row_of_which_each_block_has_little_does_not_drift(tmp_path: Path) -> None:
    array = np.full((3, 40_000), 1 / 3)
    (spec,) = stored(tmp_path, "F64", [np.ascontiguousarray(array.T)])
    spec = replace(spec, shape=array.shape, strides=(1, 3))
    backend = Stepping(BatchLimits(1 << 16, 30, 1, 8))
    bands = {"t.0": Bands.each_row(array.shape)}
    for row in measured([spec], backend=backend, bands=bands).tensors[0].rows:
        true = math.sqrt(math.fsum([(1 / 3) ** 2] * 40_000))
        assert close(row.norm, true, 2.0**-52)


def test_tied_tensors_may_be_cut_otherwise(backend: Backend, tmp_path: Path) -> None:
    array = np.arange(24.0).reshape(6, 4)
    (first,) = stored(tmp_path, "F64", [array])
    turned = view_of(first, "turned", 0, (4, 6), (1, 4))
    specs = [first, replace(first, name="tied"), turned]
    bands = {
        "t.0": Bands.around([range(1, 3)], (6, 4)),
        "tied": Bands.around([range(2, 5)], (6, 4)),
        "turned": Bands.each_row((4, 6)),
    }
    found = measured(specs, backend=backend, bands=bands)
    for tensor, shown in zip(found.tensors, (array, array, array.T), strict=True):
        assert_rows(tensor, shown, bands[tensor.name])
    assert [tensor.alias_of for tensor in found.tensors] == [None, "t.0", "t.0"]


@pytest.mark.parametrize("shape", [(3, 2 * BLOCK_ELEMENTS // 3 + 5), (BLOCK_ELEMENTS // 30, 50)])
@pytest.mark.parametrize("turned", [False, True])
def test_rows_span_blocks_and_blocks_hold_rows_whoever_works(
    backend: Backend, shape: tuple[int, int], tmp_path: Path, *, turned: bool
) -> None:
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    array[1, 3] = math.inf
    array[2, 1:4] = math.nan
    kept = array.T if turned else array
    (spec,) = stored(tmp_path, "F32", [np.ascontiguousarray(kept)])
    if turned:
        spec = replace(spec, shape=shape, strides=(1, shape[0]))
    bands = {"t.0": Bands.each_row(shape)}
    results = []
    for threads in (1, 3):
        with ThreadPoolExecutor(threads) as executor:
            results.append(measured([spec], 2.0, executor, backend=backend, bands=bands))
    one, other = (found.tensors for found in results)
    assert repr(one) == repr(other)
    squares = np.where(np.isfinite(array), array, 0).astype(np.float64) ** 2
    for row in [*one[0].rows[:50], *one[0].rows[-50:]]:
        true = math.sqrt(math.fsum(squares[row.index].tolist()))
        assert close(row.finite_norm, true)
    assert one[0].rows[1].stats.posinf == 1
    assert (one[0].rows[2].stats.nan, one[0].rows[2].stats.first_nonfinite) == (3, 2 * shape[1] + 1)
    assert without_rows(results[0]) == without_rows(measured([spec], backend=backend))


@pytest.mark.parametrize("order", ["C", "F"])
def test_of_a_stream(order: Any, tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((300, 4000))
    array[17, 5] = math.nan
    np.savez_compressed(tmp_path / "x.npz", w=np.asarray(array, order=order), b=np.ones(3))
    found = gradtool.measure(tmp_path / "x.npz", rows="*")
    tensors = {tensor.name: tensor for tensor in found.tensors}
    assert_rows(tensors["w"], array, Bands.each_row(array.shape))
    assert tensors["b"].rows == ()  # which has one axis
    assert without_rows(found) == without_rows(gradtool.measure(tmp_path / "x.npz"))


def test_of_gradients_in_memory_divided_by_the_loss_scale() -> None:
    (tensor,) = gradtool.measure({"w": np.full((2, 4), 8.0)}, rows="w", loss_scale=4.0).tensors
    assert [(row.index, row.norm) for row in tensor.rows] == [(0, 4.0), (1, 4.0)]
    assert [row.share(tensor.stats) for row in tensor.rows] == pytest.approx([0.5, 0.5])


def test_rows_that_no_tensor_has_are_refused() -> None:
    with pytest.raises(UsageError, match="`rows` 'b' matches no tensor with two axes or more"):
        gradtool.measure({"w": np.ones((2, 2)), "b": np.ones(2)}, rows="b")
    with pytest.raises(UsageError, match="2,000,000 rows, of 'w' and others, are too many"):
        gradtool.measure({"w": np.ones((2_000_000, 1), np.float16)}, rows="w")
