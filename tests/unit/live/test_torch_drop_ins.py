"""Gradients out of the ordinary, for the drop-ins: once each, named, and to the last digit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gradtool.torch as gt

F64 = torch.float64


def with_gradient(grad: Tensor) -> Tensor:
    parameter = torch.zeros(grad.shape, dtype=grad.dtype)
    parameter.grad = grad
    return parameter


def uncoalesced() -> Tensor:
    where = torch.tensor([[0, 0, 2]])
    return torch.sparse_coo_tensor(
        where, torch.tensor([1.0, 2.0, 4.0]), (5,), check_invariants=True
    )


def test_a_sparse_gradient_that_is_given_twice_counts_and_is_scaled_once() -> None:
    grad = uncoalesced()
    twin = grad.detach()
    assert gt.clip_grad_norm_([with_gradient(grad), with_gradient(twin)], 1.0) == 5.0
    assert gt.get_total_norm([grad]).item() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("p", [-2.0, -math.inf, 0.0, 2.0, math.inf])
def test_a_sparse_gradient_without_values_adds_nothing(p: float) -> None:
    empty = torch.sparse_coo_tensor(size=(5,), check_invariants=True)
    assert gt.get_total_norm([empty], p) == 0.0
    assert gt.get_total_norm([empty, torch.tensor([3.0])], p) == gt.get_total_norm(
        [torch.tensor([3.0])], p
    )


def test_a_norm_given_as_a_number_keeps_its_digits() -> None:
    grads = [torch.tensor([1e200], dtype=F64), torch.tensor([1.0], dtype=F64)]
    gt.clip_grads_with_norm_([with_gradient(grads[0])], 1.0, 1e200)
    gt.clip_grads_with_norm_([with_gradient(grads[1])], 0.05, 0.1)
    assert grads[0].item() == 1.0
    assert grads[1].item() == 0.05 / (0.1 + 1e-6)


@pytest.mark.parametrize("p", [-0.01, 0.01, -0.05])
def test_extreme_orders_have_their_nine_digits(p: float) -> None:
    scale, many = 1e200 if p < 0 else 1e-200, 10_000
    found = gt.get_total_norm([torch.full((many,), scale, dtype=F64)], p)
    assert found.item() == pytest.approx(10.0 ** (math.log10(scale) + 4 / p), rel=1e-9)


def test_the_error_says_when_all_is_finite_but_the_norm() -> None:
    large = with_gradient(torch.full((4,), 1.7e308, dtype=F64))
    with pytest.raises(RuntimeError, match="none, their norm is beyond float64"):
        gt.clip_grad_norm_([("w", large)], 1.0, error_if_nonfinite=True)


def test_views_of_memory_that_has_several_storages_are_one_vector() -> None:
    numpy = torch.arange(20.0).numpy()
    whole, part = torch.from_numpy(numpy), torch.from_numpy(numpy[:10])
    views = [part[::2], whole[1::2]]
    expected = math.sqrt(math.fsum(x * x for x in (*range(0, 10, 2), *range(1, 20, 2))))
    assert gt.get_total_norm(views, dtype=F64).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("call", [gt.clip_grad_norm_, gt.clip_grads_with_norm_])
def test_another_default_device_changes_nothing(call: Callable[..., object]) -> None:
    grad = torch.tensor([3.0, 4.0])
    parameter = with_gradient(grad)
    with torch.device("meta"):
        call([parameter], 1.0, 2.0) if call is gt.clip_grad_norm_ else call([parameter], 1.0, 5.0)
    assert grad.tolist() == pytest.approx([0.6, 0.8], rel=1e-6)


def test_a_parameter_that_is_computed_has_the_gradient_that_it_retains() -> None:
    weight = nn.Parameter(torch.ones(3))
    double = weight * 2
    double.retain_grad()
    (double * 5).sum().backward()
    assert gt.clip_grad_norm_([double], math.inf).item() == pytest.approx(math.sqrt(75))


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.complex64], ids=str)
@pytest.mark.parametrize("sizes", [[3, 5], [100_000]])
def test_autograd_is_told_that_gradients_changed(dtype: torch.dtype, sizes: list[int]) -> None:
    parameters = [torch.ones(size, dtype=dtype, requires_grad=True) for size in sizes]
    cubes = sum((parameter**3).abs().sum() for parameter in parameters)
    grads = torch.autograd.grad(cubes, parameters, create_graph=True)
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad
    squares = sum((grad**2).abs().sum() for grad in grads)
    gt.clip_grad_norm_(parameters, 1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squares.backward()


DTYPES = (torch.float16, torch.bfloat16, torch.float32, F64, torch.complex64, torch.complex128)


@pytest.mark.parametrize("dtypes", [*itertools.combinations_with_replacement(DTYPES, 2)], ids=str)
def test_the_norm_has_the_dtype_of_torchs_but_is_not_narrower_than_float32(
    dtypes: tuple[torch.dtype, ...],
) -> None:
    grads = [torch.full((3,), 0.1, dtype=dtype) for dtype in dtypes]
    theirs = nn.utils.get_total_norm(grads).dtype
    ours = gt.get_total_norm(grads)
    assert ours.dtype is torch.promote_types(theirs, torch.float32)
    assert ours == gt.get_total_norm(grads, dtype=F64).to(ours.dtype)
    clipped = gt.clip_grad_norm_([with_gradient(grad) for grad in grads], 0.1)
    assert (clipped.dtype, clipped) == (ours.dtype, ours)


def test_types_of_8_bits_have_norms_of_float32() -> None:
    grad = torch.tensor([3.0, 4.0]).to(torch.float8_e4m3fn)
    assert gt.get_total_norm([grad]).dtype is torch.float32


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float32, F64], ids=str)
def test_the_norm_of_nothing_has_the_default_dtype(default: torch.dtype) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        for norm in (gt.get_total_norm([]), gt.clip_grad_norm_([torch.ones(2)], 1.0)):
            assert norm == 0.0
            assert norm.dtype is torch.promote_types(default, torch.float32)
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_dtype_of_the_norm_can_be_asked_for(dtype: torch.dtype) -> None:
    grad = torch.full((3,), 0.1, dtype=dtype)
    true = abs(complex(grad[0])) * math.sqrt(3)
    wide = gt.clip_grad_norm_([with_gradient(grad.clone())], 1.0, dtype=F64)
    assert wide.dtype is F64
    assert wide.item() == pytest.approx(true, rel=1e-12)
    narrow = gt.get_total_norm([grad], dtype=torch.float32)
    assert (narrow.dtype, narrow.item()) == (torch.float32, wide.to(torch.float32).item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.complex64, torch.int64, float], ids=str)
def test_a_norm_of_another_dtype_is_refused_before_anything_is_scaled(dtype: torch.dtype) -> None:
    grad = torch.tensor([3.0, 4.0])
    for call in (
        lambda: gt.clip_grad_norm_([with_gradient(grad)], 1.0, dtype=dtype),
        lambda: gt.get_total_norm([grad], dtype=dtype),
    ):
        with pytest.raises(ValueError, match=r"^dtype should be torch\.float32 or"):
            call()
    assert grad.tolist() == [3.0, 4.0]


def test_the_coefficient_comes_from_the_float64_norm() -> None:
    """Its first 24 bits would give other elements, of which float32 has all digits."""
    seed = torch.Generator().manual_seed(5)
    before = torch.randn(1000, generator=seed)
    wide = gt.get_total_norm([before], dtype=F64).item()
    by_norm = {}
    for norm in (wide, gt.get_total_norm([before]).item()):
        by_norm[norm] = before.to(F64).mul(1.0 / (norm + 1e-6)).to(torch.float32)
    assert not torch.equal(*by_norm.values())
    whole, halves = before.clone(), before.clone()
    assert gt.clip_grad_norm_([with_gradient(whole)], 1.0).dtype is torch.float32
    assert torch.equal(whole, by_norm[wide])
    for norm in (gt.get_total_norm([before], dtype=F64), gt.get_total_norm([before])):
        halves.copy_(before)
        gt.clip_grads_with_norm_([with_gradient(halves)], 1.0, norm)
        assert torch.equal(halves, by_norm[norm.item()])


def test_a_norm_beyond_float32_clips_all_the_same() -> None:
    parameter = with_gradient(torch.full((4,), 3e38))
    norm = gt.clip_grad_norm_([parameter], 1.0, error_if_nonfinite=True)
    assert (norm.dtype, norm.item()) == (torch.float32, math.inf)
    assert parameter.grad is not None
    assert parameter.grad.tolist() == pytest.approx([0.5] * 4)


def test_a_norm_beyond_float32_is_not_given_to_those_who_ask_for_a_finite_one() -> None:
    large = [("w", torch.full((4,), 3e38))]
    with pytest.raises(RuntimeError, match=r"Non-finite gradients: none, .* is beyond float32$"):
        gt.get_total_norm(large, error_if_nonfinite=True)
    wide = gt.get_total_norm(large, error_if_nonfinite=True, dtype=F64)
    assert wide.item() == pytest.approx(6e38)
