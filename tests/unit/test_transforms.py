"""What becomes of each element: computed in float64, rounded once, bits of NaN and Inf kept."""

from __future__ import annotations

import math
import struct
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from dumps import COMPONENTS, codes_type, decoded, encoded, magnitudes, transformed
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradtool.core.clipping import IDENTITY, Transform
from gradtool.core.dtypes import DTYPES
from gradtool.engine.backend import Backend

FP8 = ("F8_E5M2", "F8_E4M3", "F8_E5M2FNUZ", "F8_E4M3FNUZ")
NARROW = ("F16", "BF16", *FP8)
WIDE = ("F32", "F64")
COMPLEX = tuple(COMPONENTS)
# Powers of two and their halves make ties, thirds do not; the last ones reach subnormals.
COEFS = (0.5, 0.75, 1 / 3, 0.1, 0.999999, 1 - 2**-53, 0.0, 2**-9, 2**-20, 3e-5, 1e-30, 1e-310)


def applied(
    backend: Backend,
    codes: NDArray[Any],
    dtype: str,
    transform: Transform,
    *,
    big_endian: bool = False,
) -> NDArray[Any]:
    """The codes after `apply`, which is given them in either byte order."""
    swaps = big_endian != (sys.byteorder == "big")
    raw = (codes.byteswap() if swaps else codes.copy()).view(np.uint8)
    backend.apply(raw, DTYPES[dtype], transform, big_endian=big_endian)
    found = raw.view(codes.dtype)
    return found.byteswap() if swaps else found


def every_code(dtype: str) -> NDArray[Any]:
    return np.arange(1 << DTYPES[dtype].bits, dtype=codes_type(dtype))


def wide_codes(dtype: str, count: int = 3000) -> NDArray[Any]:
    """Random bits: all magnitudes, NaN with any payload, subnormals; and the borders."""
    part = COMPONENTS.get(dtype, dtype)
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 1 << DTYPES[part].bits, count, dtype=codes_type(dtype), endpoint=False)
    top = 1 << DTYPES[part].bits - 1
    exponent_bits = {"F16": 5, "F32": 8, "F64": 11}[part]
    infinity = ((1 << exponent_bits) - 1) << (DTYPES[part].bits - 1 - exponent_bits)
    special = [0, 1, infinity - 1, infinity, infinity + 1, infinity + 12345 % (top - infinity)]
    special = special + [top + code for code in special]
    codes[: len(special)] = special
    return codes


def by_fractions(value: float, dtype: str) -> float:
    """The nearest number of a narrow type, of two as near the one with the even code."""
    known = [Fraction(x) for x in magnitudes(dtype).tolist()]
    exact = abs(Fraction(value))
    code = min(range(len(known)), key=lambda i: (abs(known[i] - exact), i % 2))
    return math.copysign(float(known[code]), value)


@pytest.mark.parametrize("dtype", FP8)
@pytest.mark.parametrize("coef", [0.5, 1 / 3, 0.1, 2**-9])
def test_the_oracle_rounds_as_exact_fractions_do(dtype: str, coef: float) -> None:
    values = [value * coef for value in decoded(every_code(dtype), dtype) if not math.isnan(value)]
    found = decoded(encoded(np.array(values), dtype), dtype)
    assert found.tolist() == [by_fractions(value, dtype) for value in values]


@pytest.mark.parametrize("nonfinite", ["absent", "keep"])
@pytest.mark.parametrize("coef", COEFS)
@pytest.mark.parametrize("dtype", NARROW)
def test_every_code_of_a_narrow_type_is_scaled_and_rounded_once(
    backend: Backend, dtype: str, coef: float, nonfinite: Any
) -> None:
    codes = every_code(dtype)
    found = applied(backend, codes, dtype, Transform(coef, nonfinite=nonfinite))
    np.testing.assert_array_equal(found, transformed(codes, dtype, coef))


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_what_float32_would_round_onto_a_tie_goes_the_right_way(
    backend: Backend, dtype: str
) -> None:
    # Just above half-way between two neighbours, nearer to it than float32 can tell.
    known = magnitudes(dtype)
    low, high = known[5000], known[5001]
    wanted = (low + high) / 2 * (1 + 2**-40)
    base = known[-1]
    coef = wanted / base
    product = float(base * coef)
    assert low < product < high
    assert product > (low + high) / 2
    assert np.float32(product) == (low + high) / 2
    codes = np.full(10, len(known) - 1, codes_type(dtype))
    assert applied(backend, codes, dtype, Transform(coef)).tolist() == [5001] * 10


@pytest.mark.parametrize("coef", COEFS)
def test_float32_is_scaled_and_rounded_once(backend: Backend, coef: float) -> None:
    codes = wide_codes("F32")
    found = applied(backend, codes, "F32", Transform(coef, nonfinite="keep"))
    values = [struct.unpack("<f", struct.pack("<I", code))[0] for code in codes.tolist()]
    expected = [
        struct.unpack("<I", struct.pack("<f", value * coef))[0] if math.isfinite(value) else code
        for code, value in zip(codes.tolist(), values, strict=True)
    ]
    assert found.tolist() == expected


@pytest.mark.parametrize("coef", COEFS)
def test_float64_is_multiplied_as_python_does(backend: Backend, coef: float) -> None:
    codes = wide_codes("F64")
    found = applied(backend, codes, "F64", Transform(coef, nonfinite="keep"))
    values = [struct.unpack("<d", struct.pack("<Q", code))[0] for code in codes.tolist()]
    expected = [
        struct.unpack("<Q", struct.pack("<d", value * coef))[0] if math.isfinite(value) else code
        for code, value in zip(codes.tolist(), values, strict=True)
    ]
    assert found.tolist() == expected


@pytest.mark.parametrize("coef", [0.5, 1 / 3, 1e-30])
@pytest.mark.parametrize("dtype", COMPLEX)
def test_both_parts_of_a_complex_element_are_scaled(
    backend: Backend, dtype: str, coef: float
) -> None:
    codes = wide_codes(dtype)
    found = applied(backend, codes, dtype, Transform(coef, nonfinite="keep"))
    np.testing.assert_array_equal(found, transformed(codes, dtype, coef))


@pytest.mark.parametrize("nonfinite", ["keep", "zero"])
@pytest.mark.parametrize("dtype", COMPLEX)
def test_a_complex_element_is_nonfinite_if_either_part_is(
    backend: Backend, dtype: str, nonfinite: Any
) -> None:
    part = COMPONENTS[dtype]
    real = {"F16": np.float16, "F32": np.float32, "F64": np.float64}[part]
    cases = [(1, math.nan), (math.inf, 3), (4, -math.inf), (math.nan, math.inf), (4, 8)]
    codes = np.array(cases, real).reshape(-1).view(codes_type(dtype))
    found = applied(backend, codes, dtype, Transform(0.5, nonfinite=nonfinite))
    kept = codes[:8].tolist() if nonfinite == "keep" else [0] * 8
    assert found[:8].tolist() == kept
    assert found[8:].view(real).tolist() == [2.0, 4.0]


@pytest.mark.parametrize("bound", [0.0, 0.1, 1.0, 100.0, 2**-7])
@pytest.mark.parametrize("dtype", [*NARROW, *WIDE])
def test_clamping_moves_what_lies_outside_and_nothing_else(
    backend: Backend, dtype: str, bound: float
) -> None:
    codes = wide_codes(dtype) if dtype in WIDE else every_code(dtype)
    found = applied(backend, codes, dtype, Transform(bound=bound, nonfinite="keep"))
    before, after = decoded(codes, dtype), decoded(found, dtype)
    bad, inside = np.isnan(before), np.abs(before) <= bound
    assert found[bad].tolist() == codes[bad].tolist()
    assert found[inside].tolist() == codes[inside].tolist() or bound == 0.0
    nearest = decoded(encoded(np.array([bound]), dtype), dtype)[0]
    outside = ~bad & ~inside
    assert np.count_nonzero(outside)
    assert set(after[outside & (before > 0)].tolist()) <= {nearest}
    assert set(after[outside & (before < 0)].tolist()) <= {-nearest}


@pytest.mark.parametrize("dtype", [*NARROW, *WIDE])
def test_zeroing_leaves_a_plain_zero_for_nan_and_inf(backend: Backend, dtype: str) -> None:
    codes = wide_codes(dtype) if dtype in WIDE else every_code(dtype)
    found = applied(backend, codes, dtype, Transform(0.5, nonfinite="zero"))
    bad = np.isnan(decoded(codes, dtype))
    assert bad.any()
    assert set(found[bad].tolist()) == {0}
    np.testing.assert_array_equal(found[~bad], transformed(codes, dtype, 0.5)[~bad])


@pytest.mark.parametrize("nonfinite", ["absent", "keep", "zero"])
@pytest.mark.parametrize("dtype", ["F16", "BF16", *WIDE, *COMPLEX])
def test_byte_order_changes_nothing_but_the_order_of_bytes(
    backend: Backend, dtype: str, nonfinite: Any
) -> None:
    part = COMPONENTS.get(dtype, dtype)
    codes = every_code(dtype) if dtype in NARROW else wide_codes(dtype)
    if nonfinite == "absent":
        codes = np.where(np.isnan(decoded(codes, part)), 7, codes).astype(codes.dtype)
    transform = Transform(1 / 3, nonfinite=nonfinite)
    np.testing.assert_array_equal(
        applied(backend, codes, dtype, transform, big_endian=True),
        applied(backend, codes, dtype, transform, big_endian=False),
    )


@pytest.mark.parametrize("nonfinite", ["absent", "keep", "zero"])
@pytest.mark.parametrize("dtype", [*NARROW, "C32"])
def test_long_blocks_come_out_as_short_ones_do(
    backend: Backend, dtype: str, nonfinite: Any
) -> None:
    part = COMPONENTS.get(dtype, dtype)
    rng = np.random.default_rng(11)
    codes = rng.integers(0, 1 << DTYPES[part].bits, 140_000).astype(codes_type(dtype))
    transform = Transform(0.3, nonfinite=nonfinite)
    whole = applied(backend, codes, dtype, transform)
    pieces = [
        applied(backend, codes[at : at + 100], dtype, transform) for at in range(0, len(codes), 100)
    ]
    np.testing.assert_array_equal(whole, np.concatenate(pieces))


@pytest.mark.parametrize("dtype", [*NARROW, *WIDE])
def test_the_identity_leaves_every_bit(backend: Backend, dtype: str) -> None:
    codes = wide_codes(dtype) if dtype in WIDE else every_code(dtype)
    np.testing.assert_array_equal(applied(backend, codes, dtype, IDENTITY), codes)
    kept = applied(backend, codes, dtype, Transform(nonfinite="keep"))
    np.testing.assert_array_equal(kept, codes)


@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=20),
    coef=st.floats(0, 1),
)
def test_any_float32_by_any_coefficient_is_the_nearest_to_the_product(
    backend: Backend, values: list[float], coef: float
) -> None:
    codes = np.array(values, np.float32).view(np.uint32)
    found = applied(backend, codes, "F32", Transform(coef)).view(np.float32)
    for value, result in zip(values, found.tolist(), strict=True):
        product = Fraction(value * coef)
        near = np.float32(result)
        for neighbour in (np.nextafter(near, np.float32(9e9)), np.nextafter(near, -near)):
            if math.isfinite(neighbour):
                distance = abs(Fraction(float(neighbour)) - product)
                assert abs(Fraction(result) - product) <= distance
