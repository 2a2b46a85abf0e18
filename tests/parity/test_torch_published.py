"""torch's own published tests of its clipping functions, asked of `gradtool.torch`.

They are in pytorch's test/test_nn.py, class TestNNDeviceType; test/cpp/api/nn_utils.cpp asks the
same of the C++ functions. The numbers expected here are worked out by hand or with `math.fsum`.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator

import pytest
import torch
from oracle import exact_norm
from torch import nn

import gradtool.torch as gt

MAX_NORM = 2.0
WIDE = (torch.float32, torch.float64)

each_norm_type = pytest.mark.parametrize("norm_type", [0.5, 1.5, 2, 4, "inf"])
each_foreach = pytest.mark.parametrize("foreach", [None, False, True])
each_dtype = pytest.mark.parametrize("dtype", WIDE, ids=str)


def gradients(dtype: torch.dtype) -> list[torch.Tensor]:
    """The large gradients of the published cases: 1 to 100, and ten times a thousandth."""
    return [
        torch.arange(1, 101, dtype=dtype).reshape(10, 10),
        torch.full((10,), 1e-3, dtype=dtype),
    ]


def small_gradients(dtype: torch.dtype) -> list[torch.Tensor]:
    """Gradients whose norm is below the bound for each published order."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(10, 10, generator=generator, dtype=dtype)
    return [noise / 10000, torch.full((10,), 1 / 500, dtype=dtype)]


def layer(grads: list[torch.Tensor]) -> nn.Linear:
    """A linear layer that holds copies of these gradients."""
    module = nn.Linear(10, 10, dtype=grads[0].dtype)
    for parameter, grad in zip(module.parameters(), grads, strict=True):
        parameter.grad = grad.clone()
    return module


def elements(grads: list[torch.Tensor]) -> list[float]:
    return [float(value) for grad in grads for value in grad.flatten()]


def norm_by_hand(grads: list[torch.Tensor], norm_type: float | str) -> float:
    """A positive norm of moderate numbers, where powers are in range."""
    p = float(norm_type)
    if p == math.inf:
        return max(abs(value) for value in elements(grads))
    return math.fsum(abs(value) ** p for value in elements(grads)) ** (1 / p)


def is_norm(found: torch.Tensor, true: float, dtype: torch.dtype) -> bool:
    """Whether a norm came back as a scalar of `dtype`, within the contract and its rounding."""
    assert found.shape == ()
    assert found.dtype is dtype
    rounding = 1e-12 if dtype is torch.float64 else 2**-24
    return found.item() == pytest.approx(true, rel=rounding, abs=0.0, nan_ok=True)


def assert_scaled(module: nn.Module, grads: list[torch.Tensor], coef: float) -> None:
    """Each gradient is its former value times one factor, within its type's rounding."""
    unit = torch.finfo(grads[0].dtype).eps + 1e-12
    for parameter, before in zip(module.parameters(), grads, strict=True):
        assert parameter.grad is not None
        true = before.to(torch.float64) * coef
        torch.testing.assert_close(parameter.grad.to(torch.float64), true, rtol=unit, atol=0.0)


def assert_clipped(module: nn.Linear, before: list[torch.Tensor], norm_type: float | str) -> None:
    norm = norm_by_hand(before, norm_type)
    assert_scaled(module, before, MAX_NORM / (norm + 1e-6))
    after = norm_by_hand([p.grad for p in module.parameters()], norm_type)
    assert after == pytest.approx(MAX_NORM, rel=1e-6)
    assert after < norm


@each_norm_type
@each_foreach
@each_dtype
def test_clipping_scales_every_gradient_by_one_factor(
    norm_type: float | str, foreach: bool | None, dtype: torch.dtype
) -> None:
    """test_clip_grad_norm, first part: large gradients."""
    module = layer(gradients(dtype))
    norm = gt.clip_grad_norm_(module.parameters(), MAX_NORM, norm_type=norm_type, foreach=foreach)
    assert is_norm(norm, norm_by_hand(gradients(dtype), norm_type), dtype)
    assert_clipped(module, gradients(dtype), norm_type)


@each_norm_type
@each_foreach
@each_dtype
def test_measuring_then_scaling_is_clipping(
    norm_type: float | str, foreach: bool | None, dtype: torch.dtype
) -> None:
    """test_clip_grad_norm, second part: get_total_norm, then clip_grads_with_norm_."""
    module = layer(gradients(dtype))
    grads = [parameter.grad for parameter in module.parameters()]
    norm = gt.get_total_norm(grads, norm_type=norm_type, foreach=foreach)
    assert gt.clip_grads_with_norm_(module.parameters(), MAX_NORM, norm, foreach=foreach) is None
    assert is_norm(norm, norm_by_hand(gradients(dtype), norm_type), dtype)
    assert_clipped(module, gradients(dtype), norm_type)
    assert all(p.grad is grad for p, grad in zip(module.parameters(), grads, strict=True))


@each_norm_type
@each_foreach
@each_dtype
def test_gradients_within_the_bound_keep_their_bits(
    norm_type: float | str, foreach: bool | None, dtype: torch.dtype
) -> None:
    """test_clip_grad_norm, third part: small gradients."""
    before = small_gradients(dtype)
    module = layer(before)
    norm = gt.clip_grad_norm_(module.parameters(), MAX_NORM, norm_type=norm_type, foreach=foreach)
    assert is_norm(norm, norm_by_hand(before, norm_type), dtype)
    for parameter, grad in zip(module.parameters(), before, strict=True):
        assert torch.equal(parameter.grad, grad)


@each_norm_type
@each_foreach
def test_one_tensor_is_as_good_as_a_list_of_one(
    norm_type: float | str, foreach: bool | None
) -> None:
    """test_clip_grad_norm, fourth part: a single tensor in place of an iterable."""
    alone, listed = torch.ones(10, 10), torch.ones(10, 10)
    alone.grad, listed.grad = gradients(torch.float32)[0], gradients(torch.float32)[0]
    first = gt.clip_grad_norm_(alone, MAX_NORM, norm_type=norm_type, foreach=foreach)
    second = gt.clip_grad_norm_([listed], MAX_NORM, norm_type=norm_type, foreach=foreach)
    assert torch.equal(first, second)
    assert torch.equal(alone.grad, listed.grad)
    assert torch.equal(
        gt.get_total_norm(alone.grad, norm_type), gt.get_total_norm([alone.grad], norm_type)
    )


@each_norm_type
@each_foreach
def test_a_used_up_generator_is_warned_of_once_and_leaves_all_as_it_was(
    norm_type: float | str, foreach: bool | None
) -> None:
    """test_clip_grad_norm, last part: an exhausted generator of parameters."""
    module = layer(gradients(torch.float32))
    used_up = module.parameters()
    assert len(list(used_up)) == 2
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        norm = gt.clip_grad_norm_(used_up, MAX_NORM, norm_type=norm_type, foreach=foreach)
    assert [str(warning.message) for warning in seen] == [
        "`parameters` is an empty generator, no gradient clipping will occur."
    ]
    assert seen[0].filename == __file__
    assert norm.item() == 0.0
    assert_scaled(module, gradients(torch.float32), 1.0)


def value_gradients() -> tuple[torch.Tensor, torch.Tensor]:
    return (torch.arange(-50.0, 50.0).reshape(10, 10) / 5, torch.full((10,), 2.0))


@each_foreach
@pytest.mark.parametrize("has_bias", [True, False])
def test_value_clipping_bounds_each_element_and_skips_missing_gradients(
    foreach: bool | None, has_bias: bool
) -> None:
    """test_clip_grad_value, first part: with and without a gradient of the bias."""
    weight, bias = value_gradients()
    module = layer([weight, bias])
    if not has_bias:
        module.bias.grad = None
    assert gt.clip_grad_value_(module.parameters(), 2.5, foreach=foreach) is None
    by_hand = [max(-2.5, min(2.5, step / 5)) for step in range(-50, 50)]
    assert torch.equal(module.weight.grad.flatten(), torch.tensor(by_hand))
    if has_bias:
        assert torch.equal(module.bias.grad, bias)
    else:
        assert module.bias.grad is None


@each_foreach
def test_value_clipping_takes_one_tensor_as_well(foreach: bool | None) -> None:
    """test_clip_grad_value, second part: a single tensor in place of an iterable."""
    alone, listed = torch.ones(10, 10), torch.ones(10, 10)
    alone.grad, listed.grad = value_gradients()[0], value_gradients()[0]
    gt.clip_grad_value_(alone, 2.5, foreach=foreach)
    gt.clip_grad_value_([listed], 2.5, foreach=foreach)
    assert torch.equal(alone.grad, listed.grad)
    assert alone.grad.abs().max().item() == 2.5


POSITIVE = (0.1, 1, 2, 3.5, math.inf)
NEGATIVE = (-0.1, -1, -2, -3.5)


def not_finite(scale: float, only_one: bool, led: bool) -> tuple[float, ...]:
    """The published table of orders whose norm is not finite, but for its last entry.

    torch expects no finite norm of 2e200 for orders 3.5 and 2, nor for -2 and -3.5 where no other
    element comes to help. The true norms are finite: gradtool reports them and raises nothing.
    """
    if math.isfinite(scale):
        return ()
    return POSITIVE if math.isinf(scale) and (only_one or led) else POSITIVE + NEGATIVE


CASES = [
    (scale, only_one, led)
    for scale in (math.inf, -math.inf, math.nan, 2e22, -2e22, 2e200, -2e200)
    for only_one, led in itertools.product((False, True), repeat=2)
]


def published_gradients(scale: float, only_one: bool, led: bool) -> list[torch.Tensor]:
    """Gradients by backward, as published: of ten elements or of one, after one of 1 or not."""
    led_by = torch.ones(1, dtype=torch.float64, requires_grad=True)
    parameter = torch.ones(10, dtype=torch.float64, requires_grad=True)
    (parameter[1] if only_one else parameter).mul(scale).sum().backward()
    led_by.sum().backward()
    return [led_by, parameter] if led else [parameter]


def finite_norm(grads: list[torch.Tensor], p: float) -> float:
    """The true norm where the published table says that there is one."""
    values = elements(grads)
    if p == 0:
        return float(sum(value != 0 for value in values))
    return exact_norm([value for value in values if math.isfinite(value)], p)


def runs(case: tuple[float, bool, bool]) -> Iterator[tuple[float, list[torch.Tensor], bool]]:
    """Each order, fresh parameters, and whether their norm is finite."""
    for p in (*POSITIVE, *NEGATIVE, 0):
        yield p, published_gradients(*case), p not in not_finite(*case)


@pytest.mark.parametrize("case", CASES, ids=str)
@each_foreach
def test_an_error_is_asked_for_and_the_norm_is_not_finite(
    case: tuple[float, bool, bool], foreach: bool | None
) -> None:
    """test_clip_grad_norm_error_if_nonfinite, with the error: raised for those norms alone."""
    for p, parameters, finite in runs(case):
        before = [parameter.grad.clone() for parameter in parameters]
        if finite:
            norm = gt.clip_grad_norm_(parameters, 1, p, error_if_nonfinite=True, foreach=foreach)
            assert is_norm(norm, finite_norm(before, p), torch.float64)
            continue
        with pytest.raises(RuntimeError, match=f"^The total norm of order {float(p)} for grad"):
            gt.clip_grad_norm_(parameters, 1, p, error_if_nonfinite=True, foreach=foreach)
        for parameter, grad in zip(parameters, before, strict=True):
            torch.testing.assert_close(parameter.grad, grad, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("case", CASES, ids=str)
@each_foreach
def test_without_the_error_gradients_are_scaled_by_whatever_the_norm_gives(
    case: tuple[float, bool, bool], foreach: bool | None
) -> None:
    """test_clip_grad_norm_error_if_nonfinite, without the error: it is never raised."""
    for p, parameters, finite in runs(case):
        before = [parameter.grad.clone() for parameter in parameters]
        norm = gt.clip_grad_norm_(parameters, 1, p, error_if_nonfinite=False, foreach=foreach)
        true = finite_norm(before, p) if finite else abs(case[0])
        assert is_norm(norm, true, torch.float64)
        coef = 1 / (true + 1e-6)
        for parameter, grad in zip(parameters, before, strict=True):
            scaled = grad if coef >= 1 else grad * coef
            torch.testing.assert_close(parameter.grad, scaled, rtol=1e-12, atol=0, equal_nan=True)


@pytest.mark.parametrize("norm_type", [2.0, math.inf])
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device: CUDA")
def test_gradients_on_two_devices_are_one_vector(norm_type: float, foreach: bool) -> None:
    """test_clip_grad_norm_multi_device, with the CPU as one of the two devices."""
    grads = [torch.ones(10, 10), torch.ones(10)]
    module = layer(grads)
    moved = torch.ones(10, device="cuda")
    moved.grad = torch.ones(10, device="cuda")
    parameters = [*module.parameters(), moved]
    norm = gt.clip_grad_norm_(parameters, 0.5, norm_type, foreach=foreach)
    true = 1.0 if norm_type == math.inf else math.sqrt(120)
    assert norm.device.type == "cpu"
    assert is_norm(norm, true, torch.float32)
    assert_scaled(module, grads, 0.5 / (true + 1e-6))
    torch.testing.assert_close(moved.grad.cpu(), torch.full((10,), 0.5 / (true + 1e-6)))
