"""torch's own norms, in float64 where it is right, and the cases where it is not."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import gradtool


def gradients(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"layers.{i}.weight": torch.randn(40 + i, 50, generator=generator, dtype=torch.float64).to(
            dtype
        )
        * 10 ** (i - 3)
        for i in range(6)
    }


def whole_numbers(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Small tensors of whole numbers, the squares of which float32 adds exactly in any order.

    Their norms are not exact, and in half types their rounding shows in the total.
    """
    generator = torch.Generator().manual_seed(0)
    return {
        f"layers.{i}.weight": torch.randint(-9, 10, (2, 49), generator=generator).to(dtype)
        for i in range(8)
    }


def save(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    torch.save(tensors, path)
    return path


def measure(tensors: dict[str, torch.Tensor], path: Path, p: float) -> gradtool.Summary:
    total = gradtool.measure(save(tensors, path), norm_type=p).total
    assert total is not None
    return total


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 0.5, -1.0, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex64])
def test_norms_of_small_tensors_are_torchs_in_float64(
    p: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    tensors = gradients(dtype)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    theirs = torch.nn.utils.get_total_norm([t.to(wide) for t in tensors.values()], p)
    assert measure(tensors, tmp_path / "g.pt", p).stats.norm == pytest.approx(
        float(theirs), rel=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_native_norm_is_what_torch_returns_where_its_sums_are_exact(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    tensors = whole_numbers(dtype)
    each = [torch.nn.utils.get_total_norm([tensor]).item() for tensor in tensors.values()]
    found = gradtool.measure(save(tensors, tmp_path / "g.pt"))
    assert [tensor.native_norm for tensor in found.tensors] == each
    assert found.total is not None
    theirs = torch.nn.utils.get_total_norm(tensors.values()).item()
    # Squares of eight norms in float32 are not exact: each rounding counts half in the root.
    assert found.total.native_norm == pytest.approx(theirs, rel=8 * 2.0**-24)


def test_an_overflow_of_half_precision_is_seen_as_torch_sees_it(tmp_path: Path) -> None:
    tensors = {"w": torch.full((2,), 6e4, dtype=torch.float16)}
    theirs = torch.nn.utils.get_total_norm(tensors.values())
    total = measure(tensors, tmp_path / "g.pt", 2.0)
    assert total.native_norm == float(theirs) == math.inf
    assert total.stats.norm == pytest.approx(84852.81, rel=1e-6)


def test_formats_of_the_same_numbers_agree(tmp_path: Path) -> None:
    tensors = gradients(torch.bfloat16)
    save_file(tensors, tmp_path / "g.safetensors")
    ours = gradtool.measure(tmp_path / "g.safetensors").total
    assert ours is not None
    theirs = measure(tensors, tmp_path / "g.pt", 2.0)
    assert ours.stats.norm == pytest.approx(theirs.stats.norm, rel=1e-12)
    assert ours.native_norm == theirs.native_norm
