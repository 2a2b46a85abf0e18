"""Rounding into narrow dtypes, against the libraries that define them."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
import torch
from dumps import SMALLEST_NORMAL
from hypothesis import given
from hypothesis import strategies as st

from gradtool.core.dtypes import DTYPES, promote

NUMPY_TYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64}


@given(value=st.floats(), name=st.sampled_from(sorted(NUMPY_TYPES)))
def test_rounding_is_numpys(value: float, name: str) -> None:
    with np.errstate(over="ignore"):
        expected = float(NUMPY_TYPES[name](value))
    assert repr(DTYPES[name].round(value)) == repr(expected)


@given(st.integers(0, (1 << 32) - 1))
def test_rounding_to_bfloat16_is_that_of_its_own_library(bits: int) -> None:
    # From float32, so that the library's own path through float32 rounds only once.
    value = float(np.uint32(bits).view(np.float32))
    with np.errstate(over="ignore", invalid="ignore"):
        expected = float(np.float32(value).astype(ml_dtypes.bfloat16))
    found = DTYPES["BF16"].round(value)
    assert found == expected or (math.isnan(found) and math.isnan(expected))


@pytest.mark.parametrize(
    ("name", "value", "rounded"),
    [
        ("F16", 65519.999, 65504.0),
        ("F16", 65520.0, math.inf),
        ("F16", -65520.0, -math.inf),
        ("F16", 2.0**-25, 0.0),
        ("F16", 2.0**-25 * 1.0001, 2.0**-24),
        ("BF16", 1.00390625, 1.0),
        ("BF16", 1.01171875, 1.015625),
        ("BF16", 1.0 + 2.0**-8 + 2.0**-40, 1.0078125),  # through float32 it would be 1.0
        ("F32", 3.4028235677973366e38, math.inf),
    ],
)
def test_rounding_is_to_nearest_even_and_only_once(name: str, value: float, rounded: float) -> None:
    assert DTYPES[name].round(value) == rounded


@pytest.mark.parametrize("name", SMALLEST_NORMAL)
def test_the_smallest_normal_number_is_that_of_the_library_that_defines_the_dtype(
    name: str,
) -> None:
    assert DTYPES[name].smallest_normal == SMALLEST_NORMAL[name]


def test_every_measured_dtype_has_a_smallest_normal_number() -> None:
    measured = {name for name, dtype in DTYPES.items() if dtype.is_measured}
    assert measured == set(SMALLEST_NORMAL)


TORCH_TYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


@pytest.mark.parametrize("one", TORCH_TYPES)
@pytest.mark.parametrize("other", TORCH_TYPES)
def test_promotion_is_torchs(one: str, other: str) -> None:
    found = promote([DTYPES[one], DTYPES[other]])
    assert found is not None
    assert TORCH_TYPES[found.name] is torch.promote_types(TORCH_TYPES[one], TORCH_TYPES[other])
