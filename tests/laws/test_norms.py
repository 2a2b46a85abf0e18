"""Laws of numbers: the truth, whatever the dtype, the magnitudes and p."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends import stats_of
from dumps import COMPONENTS, NUMPY_TYPES, SMALLEST_NORMAL, measured, stored, tiny_numbers
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import close, exact_norm

from gradtool.core.dtypes import DTYPES
from gradtool.core.measurement import Measurement
from gradtool.engine.backend import Backend

POWERS = [2.0, 1.0, 3.0, 0.5, 0.1, 64.0, -1.0, -2.0, -64.0, math.inf, -math.inf, 0.0]
BEYOND = [0.01, 1e-6, 300.0, 450.0, 500.0, 1000.0, 1e6, -700.0]


@st.composite
def words(draw: st.DrawFn) -> tuple[str, NDArray[Any]]:
    """Elements of any dtype, drawn as bits so that every magnitude and NaN occurs."""
    dtype = draw(st.sampled_from(sorted(NUMPY_TYPES)))
    kind = np.dtype(NUMPY_TYPES[dtype])
    count = draw(st.integers(1, 40))
    raw = draw(st.binary(min_size=count * kind.itemsize, max_size=count * kind.itemsize))
    return dtype, np.frombuffer(raw, kind)


def magnitudes(array: NDArray[Any]) -> list[float]:
    """|g| of each element, one at a time in Python."""
    if array.dtype.kind == "c":
        return [_abs(complex(z)) for z in array.reshape(-1)]
    return [abs(float(g)) for g in array.reshape(-1)]


def _abs(z: complex) -> float:
    if math.isnan(z.real) or math.isnan(z.imag):
        return math.nan
    return math.hypot(z.real, z.imag)


def subnormals(dtype: str, sizes: list[float]) -> int:
    return sum(0.0 < size < SMALLEST_NORMAL[dtype] for size in sizes)


def total(measurement: Measurement) -> Any:
    assert measurement.total is not None
    return measurement.total.stats


@pytest.mark.parametrize("p", POWERS + BEYOND)
@given(drawn=words())
def test_a_norm_is_the_exact_one(
    backend: Backend, p: float, drawn: tuple[str, Any], scratch: Path
) -> None:
    dtype, array = drawn
    stats = total(measured(stored(scratch, dtype, [array]), p, backend=backend))
    finite = [m for m in magnitudes(array) if math.isfinite(m)]
    if dtype == "C128" and any(math.isinf(m) for m in magnitudes(array)):
        return  # some |z| of finite parts exceed float64; the law for those is below
    true = exact_norm(finite, p)
    if 0.0 < true < 2.3e-308 or math.isinf(true):
        return  # outside the contract: not a normal float64
    assert close(stats.finite_norm, true, 1e-12 if p in POWERS else 1e-9)


@given(drawn=words(), p=st.sampled_from(POWERS))
def test_counts_are_those_of_a_plain_loop(
    backend: Backend, drawn: tuple[str, Any], p: float, scratch: Path
) -> None:
    dtype, array = drawn
    stats = measured(stored(scratch, dtype, [array]), p, backend=backend).tensors[0].stats
    parts = [complex(g) for g in array]
    nan = [math.isnan(z.real) or math.isnan(z.imag) for z in parts]
    infinite = [
        not n and (math.isinf(z.real) or math.isinf(z.imag))
        for n, z in zip(nan, parts, strict=True)
    ]
    negative = [
        i and array.dtype.kind != "c" and z.real < 0 for i, z in zip(infinite, parts, strict=True)
    ]
    assert stats.nan == sum(nan)
    assert stats.neginf == sum(negative)
    assert stats.posinf == sum(infinite) - sum(negative)
    assert stats.zeros == sum(z == 0 for z in parts)
    assert stats.subnormals == subnormals(dtype, magnitudes(array))
    bad = [i for i in range(len(parts)) if nan[i] or infinite[i]]
    assert stats.first_nonfinite == (bad[0] if bad else None)


@given(drawn=words())
def test_the_largest_magnitude_is_a_finite_elements_own(
    backend: Backend, drawn: tuple[str, Any], scratch: Path
) -> None:
    dtype, array = drawn
    finite = [m for m in magnitudes(array) if math.isfinite(m)]
    if dtype == "C128":
        finite = [m for m, z in zip(magnitudes(array), array, strict=True) if np.isfinite(z)]
    found = total(measured(stored(scratch, dtype, [array]), backend=backend)).max_abs
    assert close(found, max(finite, default=0.0), 1e-15)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("p", [2.0, 1.0, -2.0, math.inf, 0.0])
@pytest.mark.parametrize("dtype", [*NUMPY_TYPES, *COMPONENTS])
def test_subnormals_are_told_from_zeros_and_from_normal_numbers(
    backend: Backend, dtype: str, p: float, *, big_endian: bool
) -> None:
    part = COMPONENTS.get(dtype, dtype)
    parts = tiny_numbers(part, 6000, np.random.default_rng(0), nonfinite=True)
    sizes = magnitudes(parts)
    if part != dtype:
        sizes = [_abs(complex(*map(float, pair))) for pair in parts.reshape(-1, 2)]
    counts = [1, 999, len(sizes) - 1000]
    stored_as = parts.byteswap() if big_endian else parts
    ends = np.cumsum(counts)[:-1] * DTYPES[dtype].itemsize
    segments = np.split(stored_as.view(np.uint8), ends)
    together = stats_of(backend, segments, DTYPES[dtype], p, big_endian=big_endian)
    start = 0
    for count, raw, stats in zip(counts, segments, together, strict=True):
        (alone,) = stats_of(backend, [raw], DTYPES[dtype], p, big_endian=big_endian)
        segment = sizes[start : start + count]
        assert stats.subnormals == alone.subnormals == subnormals(dtype, segment)
        assert stats.zeros == alone.zeros == segment.count(0.0)
        start += count
    assert 0 < stats.subnormals < stats.numel - stats.zeros - stats.nonfinite


def test_a_loss_scale_makes_no_number_subnormal(backend: Backend, tmp_path: Path) -> None:
    specs = stored(tmp_path, "F32", [np.array([1.0, 1e-40, 0.0], np.float32)])
    for loss_scale in (1.0, 2.0**-30, 2.0**140):
        assert total(measured(specs, loss_scale=loss_scale, backend=backend)).subnormals == 1


# Sums that lucky rounding hides from random data: constants, values near 1, powers far apart.
AWKWARD = {
    "thirds": np.full(300_000, 1 / 3),
    "tenths": np.full(1_000_003, 0.1),
    "near one": 1.0 + np.arange(300_000) / 3e9,
    "one large among many small": np.concatenate([[1e8], np.full(300_000, 1.1e-4)]),
    "powers far apart": np.ldexp(1.1, np.arange(300_000) % 120 - 60),
}


@pytest.mark.parametrize("case", AWKWARD)
@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_long_sums_do_not_drift(backend: Backend, case: str, dtype: str, tmp_path: Path) -> None:
    with np.errstate(over="ignore"):
        array = AWKWARD[case].astype(NUMPY_TYPES[dtype])
    array = array[np.isfinite(array.astype(np.float64))]
    exact = array.astype(np.float64)
    stats = total(measured(stored(tmp_path, dtype, [array]), backend=backend))
    assert close(stats.norm, math.sqrt(math.fsum(x * x for x in exact.tolist())), 1e-13)
    stats = total(measured(stored(tmp_path, dtype, [array]), 1.0, backend=backend))
    assert close(stats.norm, math.fsum(exact.tolist()), 1e-13)


@pytest.mark.parametrize("p", [0.1, -0.1, 0.3])
def test_equal_elements_do_not_drift_for_small_p_either(
    backend: Backend, p: float, tmp_path: Path
) -> None:
    # The root makes an error of the sum 1 / p times larger, and equal terms all err one way.
    for value in np.linspace(0.11, 1.9, 9).astype(np.float32):
        found = total(
            measured(stored(tmp_path, "F32", [np.full(1 << 16, value)]), p, backend=backend)
        ).norm
        with localcontext(prec=40):
            true = float(Decimal(float(value)) * Decimal(1 << 16) ** (1 / Decimal(p)))
        assert close(found, true)


OVERFLOWS = [
    ("F16", [6e4, 6e4], math.sqrt(2) * 60000.0),
    ("F16", [100.0] * 1_000_000, 1e5),
    ("F32", [float(np.float32(1e20))] * 4, 2.0 * float(np.float32(1e20))),
    ("F64", [1e200] * 4, 2e200),
    ("F64", [1e-200] * 4, 2e-200),
    ("F64", [5e-324] * (1 << 20), 5e-324 * 1024),
    ("F32", [float(np.float32(1e-23))] * 4, 2.0 * float(np.float32(1e-23))),
    ("BF16", [1.0] * 1000, math.sqrt(1000)),
]


@pytest.mark.parametrize(("dtype", "values", "norm"), OVERFLOWS)
def test_squares_neither_overflow_nor_underflow(
    backend: Backend, dtype: str, values: list[float], norm: float, tmp_path: Path
) -> None:
    array = np.array(values).astype(NUMPY_TYPES[dtype])
    assert close(
        total(measured(stored(tmp_path, dtype, [array]), backend=backend)).norm, norm, 1e-15
    )


def test_a_norm_beyond_float64_is_infinite_and_its_elements_still_finite(
    backend: Backend, tmp_path: Path
) -> None:
    real = total(measured(stored(tmp_path, "F64", [np.full(4, 1.7e308)]), backend=backend))
    assert (real.norm, real.finite_norm, real.nonfinite) == (math.inf, math.inf, 0)
    both = total(
        measured(stored(tmp_path, "C128", [np.array([1.5e308 + 1.5e308j])]), backend=backend)
    )
    assert (both.norm, both.nonfinite) == (math.inf, 0)


def test_elements_beyond_float64_spoil_no_figure_of_the_others(
    backend: Backend, tmp_path: Path
) -> None:
    huge = 1.5e308 + 1.5e308j
    array = np.array([huge, 5e-324, 0.0, complex(math.nan, math.inf), huge])
    for p, norm in ((0.0, 4.0), (-math.inf, 0.0)):
        stats = (
            measured(stored(tmp_path, "C128", [array[[0, 1, 2, 4, 3]]]), p, backend=backend)
            .tensors[0]
            .stats
        )
        assert (stats.zeros, stats.nan, stats.posinf, stats.first_nonfinite) == (1, 1, 0, 4)
        assert stats.subnormals == 1
        assert stats.norm == norm or p < 0.0
    pair = stored(tmp_path, "C128", [np.full(4, huge), np.array([1e308 + 0j])])
    true = exact_norm([math.hypot(0.75, 0.75) * 2.0] * 4 + [1.0], -2.0)
    assert close(total(measured(pair, -2.0, backend=backend)).norm / 1e308, true)


RULES = [
    # values, p, norm, finite_norm
    ([3.0, -4.0], 2.0, 5.0, 5.0),
    ([3.0, math.nan, 4.0], 2.0, math.nan, 5.0),
    ([3.0, math.inf, 4.0], 2.0, math.inf, 5.0),
    ([3.0, -math.inf, 4.0], -1.0, 12 / 7, 12 / 7),
    ([3.0, -math.inf, 4.0], -math.inf, 3.0, 3.0),
    ([3.0, math.nan, 4.0], -math.inf, math.nan, 3.0),
    ([0.0, 3.0, 4.0], -1.0, 0.0, 0.0),
    ([0.0, 3.0, 4.0], -math.inf, 0.0, 0.0),
    ([0.0, 3.0, math.nan, math.inf], 0.0, 3.0, 1.0),
    ([math.inf, -math.inf], -2.0, math.inf, 0.0),
    ([math.inf, math.nan], 2.0, math.nan, 0.0),
    ([0.0, -0.0], 2.0, 0.0, 0.0),
    ([0.0, -0.0], -2.0, 0.0, 0.0),
    ([], -2.0, 0.0, 0.0),
    ([], math.inf, 0.0, 0.0),
]


@pytest.mark.parametrize(("values", "p", "norm", "finite_norm"), RULES)
@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64", "C64"])
def test_nonfinite_elements_are_counted_and_the_norm_follows_ieee(
    backend: Backend,
    dtype: str,
    values: list[float],
    p: float,
    norm: float,
    finite_norm: float,
    tmp_path: Path,
) -> None:
    array = np.array(values).astype(NUMPY_TYPES[dtype])
    stats = total(measured(stored(tmp_path, dtype, [array]), p, backend=backend))
    assert stats.norm == pytest.approx(norm, rel=1e-15, nan_ok=True)
    assert stats.finite_norm == pytest.approx(finite_norm, rel=1e-15)


@given(
    values=st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=30),
    exponent=st.integers(-20, 20),
    p=st.sampled_from([2.0, 1.0, 3.0, 0.5, -1.0, math.inf, -math.inf]),
)
def test_dividing_by_a_loss_scale_divides_the_norm(
    backend: Backend, values: list[float], exponent: int, p: float, scratch: Path
) -> None:
    specs = stored(scratch, "F32", [np.array(values, np.float32)])
    plain = total(measured(specs, p, backend=backend))
    scaled = total(measured(specs, p, loss_scale=2.0**exponent, backend=backend))
    assert close(scaled.norm, plain.norm / 2.0**exponent, 1e-15)
    assert scaled.max_abs == plain.max_abs / 2.0**exponent


@pytest.mark.parametrize(
    ("dtype", "arrays", "native"),
    [
        ("F16", [[6e4, 6e4]], math.inf),
        ("F32", [[3.0, 4.0]], 5.0),
        # Each norm is rounded to bfloat16 (31.62 -> 31.625), then the norm of those.
        ("BF16", [[1.0] * 1000, [1.0] * 1000], 44.75),
        ("F8_E4M3", [[1.0]], None),
        ("C64", [[3 + 4j]], 5.0),
        ("F16", [[1e-4] * 10, [math.nan]], math.nan),
    ],
)
def test_the_native_norm_is_the_norm_of_rounded_norms_rounded(
    backend: Backend, dtype: str, arrays: list[list[float]], native: float | None, tmp_path: Path
) -> None:
    specs = stored(tmp_path, dtype, [np.array(a).astype(NUMPY_TYPES[dtype]) for a in arrays])
    found = measured(specs, backend=backend).total
    assert found is not None
    if native is None:
        assert found.native_norm is None
    else:
        assert found.native_norm == pytest.approx(native, rel=0, nan_ok=True)


def test_the_native_norm_needs_a_norm_in_every_dtype(backend: Backend, tmp_path: Path) -> None:
    specs = stored(tmp_path, "F32", [np.ones(4, np.float32)])
    specs += stored(tmp_path, "F8_E5M2", [np.ones(4).astype(NUMPY_TYPES["F8_E5M2"])])
    found = measured(specs, backend=backend).total
    assert found is not None
    assert (found.native_norm, found.native_dtype) == (None, None)


@pytest.mark.parametrize("p", [-2.0, -math.inf])
def test_an_empty_tensor_adds_nothing_to_the_native_norm_either(
    backend: Backend, p: float, tmp_path: Path
) -> None:
    specs = stored(tmp_path, "F32", [np.array([3.0, 4.0], np.float32), np.zeros(0, np.float32)])
    found = measured(specs, p, backend=backend).total
    assert found is not None
    assert found.native_norm == pytest.approx(found.norm, rel=1e-7)


@pytest.mark.parametrize(
    ("values", "p", "loss_scale", "norm"),
    [
        ([3e-290] * 1_000_000, 0.5, 1e30, 3e-308),
        ([1e-300] * 1_000_000, 1.0, 1e12, 1e-306),
        ([1e150, 1e140], 2.0, 1e-200, math.inf),
        ([1e-200, 1e-100], -2.0, 1e100, 1e-300),
        ([2.0**-900] * (1 << 20), 0.5, 2.0**100, 2.0**-960),
        ([4.0, 2.0], -1.0, 2.0, 2 / 3),
        ([4.0, 2.0], -math.inf, 2.0, 1.0),
    ],
)
def test_an_extreme_loss_scale_costs_no_digits(
    backend: Backend, values: list[float], p: float, loss_scale: float, norm: float, tmp_path: Path
) -> None:
    found = total(
        measured(
            stored(tmp_path, "F64", [np.array(values)]), p, loss_scale=loss_scale, backend=backend
        )
    )
    assert found.norm == pytest.approx(norm, rel=1e-12)


@pytest.mark.parametrize("value", [5.0, 5e-324, 1.7e308])
@pytest.mark.parametrize("p", [1e-20, 1e-9, 2.0, 1e9, -1e9, math.inf, -math.inf])
def test_a_single_element_is_its_own_norm(
    backend: Backend, value: float, p: float, tmp_path: Path
) -> None:
    array = np.array([0.0] * (p > 0) + [value])
    assert total(measured(stored(tmp_path, "F64", [array]), p, backend=backend)).norm == value
