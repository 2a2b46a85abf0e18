"""fp8 weights times their scales against what they stand for, made by torch in float64."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from command_line import run
from safetensors.torch import save_file

import gradtool

E4M3 = torch.float8_e4m3fn


def quantized(weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A weight as fp8 with a scale for each row, and the products in float64."""
    factors = (weight.abs().amax(1, keepdim=True) / 448.0).float()
    stored = (weight / factors).to(E4M3)
    return {"w.weight": stored, "w.weight_scale_inv": factors}, stored.double() * factors.double()


@pytest.fixture
def weight() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(300, 700)


@pytest.mark.parametrize("is_transposed", [False, True])
def test_products_are_those_of_torch(
    weight: torch.Tensor, tmp_path: Path, *, is_transposed: bool
) -> None:
    tensors, exact = quantized(weight)
    save_file(tensors, tmp_path / "fp8.safetensors")
    other = exact.T.contiguous() if is_transposed else exact
    torch.save({"w.weight": other.T if is_transposed else other}, tmp_path / "exact.pt")
    same = gradtool.diff(tmp_path / "fp8.safetensors", tmp_path / "exact.pt", apply_scales=True)
    (pair,) = same.tensors
    assert same.identical and (pair.a.dtype.name, pair.differing) == ("F64", 0)
    assert any("fp8 tensor is measured times its scale" in note for note in same.a.notes)


def test_how_much_quantizing_lost_is_told(weight: torch.Tensor, tmp_path: Path) -> None:
    tensors, exact = quantized(weight)
    save_file(tensors, tmp_path / "fp8.safetensors")
    save_file({"w.weight": weight.bfloat16()}, tmp_path / "bf16.safetensors")
    for sides in (("bf16", "fp8"), ("fp8", "bf16")):
        paths = [tmp_path / f"{side}.safetensors" for side in sides]
        found = gradtool.diff(*paths, apply_scales=True)
        a, b = (weight.bfloat16().double(), exact)
        a, b = (a, b) if sides[0] == "bf16" else (b, a)
        wanted = math.sqrt(math.fsum(((b - a) ** 2).flatten().tolist())) / math.sqrt(
            math.fsum((a**2).flatten().tolist())
        )
        assert found["w.weight"].rel_l2 == pytest.approx(wanted, rel=1e-12)
        assert (found.only_in_a, found.only_in_b) == ((), ())
        raw = gradtool.diff(*paths)
        assert len(raw.only_in_a) + len(raw.only_in_b) == 1
        loose = run("diff", *map(str, paths), "--apply-scales", "--max-rel-l2", "0.05")
        assert loose.returncode == 0, loose.stdout


def test_other_scales_of_the_same_values_agree_only_when_applied(tmp_path: Path) -> None:
    stored = torch.randn(8, 8).to(E4M3)
    for name, factor in (("a", 1.0), ("b", 2.0)):
        halves = (stored.float() / factor).to(E4M3)
        scale = torch.full((1,), factor)
        save_file({"w.weight": halves, "w.weight_scale": scale}, tmp_path / name)
    exact = [(stored.float() / 2).to(E4M3).float() * 2 == stored.float()]
    a, b = tmp_path / "a", tmp_path / "b"
    assert not gradtool.diff(a, b)
    found = gradtool.diff(a, b, apply_scales=True)
    assert found["w.weight"].differing == int((~exact[0]).sum())


def test_nan_in_a_scale_is_found_where_it_is(weight: torch.Tensor, tmp_path: Path) -> None:
    tensors, exact = quantized(weight)
    save_file({"w.weight": exact}, tmp_path / "exact")
    tensors["w.weight_scale_inv"][7] = math.nan
    save_file(tensors, tmp_path / "fp8")
    pair = gradtool.diff(tmp_path / "exact", tmp_path / "fp8", apply_scales=True)["w.weight"]
    assert pair.stats is not None and (pair.stats[0].nan, pair.stats[1].nan) == (0, 700)
    assert (pair.differing, pair.first_differing) == (700, (7, 0))
