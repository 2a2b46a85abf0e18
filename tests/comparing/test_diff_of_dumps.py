"""`gradtool.diff`: names that pair, layouts, tolerances, live gradients, known cases."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import gradtool
from comparing.planted import one_gpu_and_ddp
from gradtool import Difference, UsageError

W = torch.tensor([[3.0, 4.0, -1.0], [0.0, 1.0, 2.0]])


def only(difference: Difference) -> gradtool.TensorDifference:
    (tensor,) = difference.tensors
    return tensor


def test_columns_that_are_swapped_have_the_same_norms_and_differ() -> None:
    of_mlx = np.array([[0, 0, 1, 1, 0], [0, 0, 1, 1, 0]], np.float32)
    of_torch = np.array([[0, 0, 1, 0, 1], [1, 0, 0, 0, 1]], np.float32)
    found = only(gradtool.diff({"x": of_torch}, {"x": of_mlx}))
    assert found.rel_l2 == 1.224744871391589
    assert (found.cosine, found.norm_ratio) == (0.25, 1.0)
    assert (found.differing, found.first_differing, found.first_values) == (6, (0, 3), (0.0, 1.0))


def test_one_gpu_against_ddp() -> None:
    one, ddp = one_gpu_and_ddp()
    found = gradtool.diff(one, ddp)
    assert not found and len(found.tensors) == 16
    assert found.notes == ("16 names agree after 'module.' is taken off those of B",)
    halves = [one for one in found.tensors if ".3." not in one.name]
    assert all((t.best_scale, t.rel_l2_scaled, t.cosine) == (0.5, 0.0, 1.0) for t in halves)
    others = [one for one in found.tensors if ".3." in one.name]
    assert all(0.9 < (t.cosine or 0.0) < 0.95 and (t.rel_l2_scaled or 0.0) > 0.35 for t in others)


def test_live_gradients_are_a_side(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3))
    model(torch.randn(4, 5)).square().sum().backward()
    grads = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    path = str(tmp_path / "grads.safetensors")
    save_file(grads, path)
    assert gradtool.diff(path, model).identical
    assert gradtool.diff(model, path).identical
    turned = {name: one.t().contiguous().t() for name, one in grads.items()}
    assert gradtool.diff(model, turned).identical
    turned["1.weight"][1, 2] += 1.0
    found = gradtool.diff(path, turned)
    assert (found.first_difference, bool(found)) == ("1.weight", False)
    assert next(t for t in found.tensors if not t.same).first_differing == (1, 2)


def test_a_transposed_tensor_is_the_same_where_that_is_said() -> None:
    a, b = {"h.weight": W, "h.bias": W[0]}, {"h.weight": W.T, "h.bias": W[0]}
    assert [t.problem for t in gradtool.diff(a, b).tensors] == ["shapes differ", None]
    assert gradtool.diff(a, b, transpose="*.weight").identical


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "_fsdp_wrapped_module."])
def test_wrappers_are_taken_off(wrapper: str) -> None:
    a = {"h.0.w": W, "h.1.w": W + 1}
    b = {f"h.{wrapper}1.w": W + 1, f"{wrapper}h.0.w": W}
    assert gradtool.diff(a, b).identical
    assert gradtool.diff(b, a).identical


def test_what_does_not_pair_is_a_difference() -> None:
    found = gradtool.diff({"a": W, "b": W}, {"b": W, "c": W})
    assert not found
    assert (found.only_in_a, found.only_in_b) == (("a",), ("c",))
    assert [t.name for t in found.tensors] == ["b"]
    assert gradtool.diff({"a": W, "b": W}, {"b": W, "c": W}, name_map="a=c").identical


def test_a_wrapper_that_would_make_two_names_one_stays() -> None:
    a = {"w": W, "module.w": W + 1}
    b = {"w": W, "module.w": W + 1}
    assert gradtool.diff(a, b).identical
    with pytest.raises(UsageError, match="makes one name, 'x', of 'a', 'b'"):
        gradtool.diff({"a": W, "b": W}, {"x": W}, name_map=["a=x", "b=x"])
    with pytest.raises(UsageError, match="fits no name"):
        gradtool.diff({"a": W}, {"a": W}, name_map={"nothing.*": "*"})


def near(value: float, count: int = 1) -> dict[str, Any]:
    changed = W.clone()
    changed.view(-1)[1 : 1 + count] = value
    return {"w": changed}


@pytest.mark.parametrize(
    ("bounds", "same"),
    [
        ({}, False),
        ({"rtol": 0.02}, False),
        ({"rtol": 0.03}, True),
        ({"atol": 0.09}, False),
        ({"atol": 0.11}, True),
        ({"atol": 0.05, "rtol": 0.013}, True),
        ({"max_rel_l2": 0.1 / math.sqrt(31) * 1.001}, True),
        ({"max_rel_l2": 0.1 / math.sqrt(31) * 0.999}, False),
        ({"ulps": 209716}, True),
        ({"ulps": 209714}, False),
        ({"rtol": 0.03, "ulps": 1}, False),
    ],
)
def test_tolerances_are_bounds_of_their_own_kind(bounds: dict[str, Any], same: bool) -> None:
    # 4.1 in float32 is 209,715 numbers from 4, which are 2^-21 apart there.
    found = gradtool.diff({"w": W}, near(4.1), **bounds)
    assert bool(found) == same
    assert not found.identical


def test_infinities_agree_by_their_signs_and_nan_by_its_bits() -> None:
    inf, nan = math.inf, math.nan
    tolerance: dict[str, Any] = {"rtol": 1.0, "atol": 1e9}
    assert gradtool.diff(near(inf), near(inf))
    assert gradtool.diff(near(inf), near(inf), **tolerance)
    assert not gradtool.diff(near(inf), near(-inf), **tolerance)
    assert not gradtool.diff(near(inf), near(3e38), **tolerance)
    assert not gradtool.diff(near(4.0), near(nan), **tolerance)
    assert gradtool.diff(near(nan), near(nan))
    other = torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32).item()
    same_nan = near(nan)
    odd = {"w": W.clone()}
    odd["w"].view(torch.int32).view(-1)[1] = 0x7FC00001
    assert math.isnan(other)
    for bounds in ({}, tolerance, {"ulps": 99}, {"max_rel_l2": 9.0}):
        assert not gradtool.diff(same_nan, odd, **bounds)
        assert gradtool.diff(same_nan, odd, equal_nan=True, **bounds)
    assert not gradtool.diff(near(4.0), near(nan), equal_nan=True)


def test_zeros_of_two_signs_differ_only_without_tolerances() -> None:
    found = gradtool.diff(near(0.0), near(-0.0))
    assert not found
    assert (only(found).differing, only(found).max_abs_diff, only(found).max_ulps) == (1, 0.0, 0)
    distance = only(found).distance
    assert distance is not None and distance.zero_signs == 1
    for bounds in ({"rtol": 0.0}, {"ulps": 0}, {"max_rel_l2": 0.0}, {"equal_nan": True}):
        assert gradtool.diff(near(0.0), near(-0.0), **bounds)


def test_two_dtypes_are_never_identical_and_may_agree_once_rounded() -> None:
    values = torch.linspace(-3, 3, 100)
    found = only(gradtool.diff({"w": values}, {"w": values.bfloat16()}))
    assert (found.identical, found.equal_when_rounded, found.max_ulps) == (False, True, None)
    halves = torch.tensor([0.5, 1.5])
    exact = only(gradtool.diff({"w": halves}, {"w": halves.half()}))
    assert (exact.identical, exact.same, exact.differing) == (False, False, 0)
    assert gradtool.diff({"w": halves}, {"w": halves.half()}, rtol=0.0)
    far = values.bfloat16()
    far[3] += 0.5
    assert only(gradtool.diff({"w": values}, {"w": far})).equal_when_rounded is False


@pytest.mark.parametrize("scale", [2.0, 3.0, 65536.0])
def test_each_side_is_divided_by_its_own_loss_scale(scale: float, tmp_path: Path) -> None:
    model = torch.nn.Linear(4, 4)
    model.weight.grad, model.bias.grad = W.repeat(2, 2)[:4, :4].clone(), W.view(-1)[:4].clone()
    for one in model.parameters():
        assert one.grad is not None
        one.grad *= scale
    gradtool_torch = pytest.importorskip("gradtool.torch")
    scaled, plain = str(tmp_path / "scaled.safetensors"), str(tmp_path / "plain.safetensors")
    gradtool_torch.dump_gradients(model, scaled, loss_scale=scale)
    for one in model.parameters():
        assert one.grad is not None
        one.grad /= scale
    gradtool_torch.dump_gradients(model, plain)
    found = gradtool.diff(plain, scaled)
    assert (found.a.loss_scale, found.b.loss_scale) == (1.0, scale)
    assert gradtool.diff(plain, scaled, rtol=1e-6)
    assert all((t.norm_ratio or 0.0) == pytest.approx(1.0, rel=1e-6) for t in found.tensors)
    both = gradtool.diff(scaled, scaled)
    assert both.identical
    assert both.tensors[0].stats is not None
    assert found.tensors[0].stats is not None
    assert both.tensors[0].stats[0].norm == pytest.approx(found.tensors[0].stats[0].norm, rel=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rtol": math.nan},
        {"atol": -1.0},
        {"max_rel_l2": math.inf},
        {"ulps": -1},
        {"ulps": 1.5},
        {"name_map": "a"},
        {"name_map": "a=*"},
    ],
)
def test_arguments_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        gradtool.diff({"w": W}, {"w": W}, **wrong)


def test_a_glob_of_tensors_to_transpose_that_fits_none_is_refused() -> None:
    with pytest.raises(UsageError, match=r"`transpose` 'wieght' fits no tensor.*'weight'"):
        gradtool.diff({"weight": W}, {"weight": W.T.contiguous()}, transpose="wieght")


def test_a_section_is_compared_with_a_dump_that_has_none(tmp_path: Path) -> None:
    path, alone = tmp_path / "training.pt", {"w": W, "v": W[0]}
    torch.save({"grads": alone, "model": {"w": W * 2, "v": W[1]}, "step": 3}, path)
    for one, other in ((path, alone), (alone, path)):
        found = gradtool.diff(one, other, section="grads", strip_prefix="grads.")
        assert found.identical and len(found.tensors) == 2
    with pytest.raises(UsageError, match=r"strip_prefix` 'grads\.'"):
        gradtool.diff(path, alone, section="grads")
    with pytest.raises(UsageError, match="memory: has no section 'grads'; it has no sections"):
        gradtool.diff(alone, alone, section="grads")
    with pytest.raises(UsageError, match="has no section 'optimizer'; its sections are"):
        gradtool.diff(path, alone, section="optimizer")
