"""Differences of numbers at the ends of what types hold."""

from __future__ import annotations

import math

import pytest
import torch

import gradtool

LARGEST = 1.7e308


@pytest.mark.parametrize("count", [1, 40])
def test_equal_complex_numbers_beyond_float64_have_the_figures_of_equals(count: int) -> None:
    values = torch.tensor([complex(LARGEST, LARGEST), 1 - 1j] * count, dtype=torch.complex128)
    found = gradtool.diff({"w": values, "v": values[:1]}, {"w": values, "v": values[:1].clone()})
    for pair in found.tensors:
        assert (pair.rel_l2, pair.norm_ratio, pair.best_scale, pair.rel_l2_scaled) == (0, 1, 1, 0)
        assert pair.cosine == pytest.approx(1.0, rel=1e-12)
        assert pair.stats is not None and pair.stats[0].norm == math.inf


@pytest.mark.parametrize("bad", [complex(math.nan, math.inf), complex(1.0, math.nan)])
def test_a_complex_number_beyond_float64_is_no_infinity(bad: complex) -> None:
    a = torch.tensor([complex(LARGEST, LARGEST), 1j, 2 + 1j], dtype=torch.complex128)
    b = torch.tensor([complex(-LARGEST, LARGEST), bad, 2 + 1j], dtype=torch.complex128)
    found = gradtool.diff({"w": a}, {"w": b})
    assert [one.code for one in found.diagnosis] == ["GT504"]
    assert "1 NaN in B alone, in 'w' at [1]" in found.diagnosis[0].text


def test_one_complex_number_of_many_that_becomes_larger_than_float64_is_told() -> None:
    a = torch.ones(5000, dtype=torch.complex128)
    b = a.clone()
    b[7] = complex(LARGEST, LARGEST)
    found = gradtool.diff({"w": a}, {"w": b})
    assert found.diagnosis[0].code == "GT502"


@pytest.mark.parametrize("device", [None, "cpu"], ids=["numpy", "torch"])
def test_complex_numbers_further_apart_than_float64_reaches_have_a_finite_rel_l2(
    device: str | None,
) -> None:
    a = torch.tensor([complex(LARGEST, LARGEST), 1j, -3 + 4j], dtype=torch.complex128)
    found = gradtool.diff({"w": a}, {"w": -a}, device=device)["w"]
    assert (found.rel_l2, found.norm_ratio, found.best_scale) == (2.0, 1.0, -1.0)
    assert (found.max_abs_diff, found.max_abs_diff_at) == (math.inf, (0,))
