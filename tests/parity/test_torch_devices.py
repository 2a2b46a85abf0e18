"""Gradients on a device: what is done there, asked of CPU tensors, and of a GPU if there is one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from oracle import close, exact_norm
from torch import Tensor

import gradtool.torch as gt
from gradtool.torch._blocks import Block
from gradtool.torch._gradients import gather
from gradtool.torch._norm import squares_on_device
from gradtool.torch._scale import scale, scale_on_device

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ORDERS = (0.0, 0.5, 1.0, 2.0, 3.0, math.inf, -math.inf, -1.0)

on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def gradients(dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
    """Large and small ones, none at all and a scalar."""
    seed = torch.Generator().manual_seed(7)
    sizes = [(300, 500), (3,), (0, 4), (5, 10), (40_000,), ()]
    return [torch.randn(size, generator=seed).to(dtype).to(device) for size in sizes]


def as_on_device(grads: list[Tensor]) -> list[Block]:
    """The blocks without the addresses that only a CPU has."""
    (blocks,) = gather(grads).groups.values()
    return [Block(block.tensors, block.numel) for block in blocks]


def numbers(grads: list[Tensor]) -> list[float]:
    return [value for grad in grads for value in grad.double().flatten().tolist()]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("coef", [0.3337, 1.0, 1e-4, 0.0, math.nan])
def test_scaling_is_the_same_on_a_device(dtype: torch.dtype, coef: float) -> None:
    factor = torch.tensor(coef, dtype=torch.float64)
    here, there = gradients(dtype), gradients(dtype)
    scale(gather(here), factor)
    scale_on_device(as_on_device(there), factor)
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.nan_to_num(nan=-7.0), other.nan_to_num(nan=-7.0))


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
def test_squares_are_the_same_on_a_device(dtype: torch.dtype) -> None:
    grads = gradients(dtype)
    found = squares_on_device(as_on_device(grads))
    assert close(math.sqrt(found.item()), exact_norm(numbers(grads), 2.0))


@contextmanager
def no_waiting() -> Iterator[None]:
    """Anything inside that waits for the GPU is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    return found


class TestOnAGpu:
    """What only a GPU can show."""

    pytestmark = on_gpu

    @pytest.mark.parametrize("p", ORDERS)
    def test_norms_are_true(self, dtype: torch.dtype, p: float) -> None:
        grads = gradients(dtype, "cuda")
        with no_waiting():
            found = gt.get_total_norm(grads, p, dtype=torch.float64)
        assert found.device.type == "cuda"
        assert close(found.item(), exact_norm(numbers(grads), p))

    def test_clipping_gives_the_bytes_that_a_cpu_gives(self, dtype: torch.dtype) -> None:
        there, here = gradients(dtype, "cuda"), gradients(dtype)
        known = torch.tensor(700.0, dtype=torch.float64)
        clip_with(there, 1.0, known.to("cuda"), waiting=False)
        clip_with(here, 1.0, known, waiting=True)
        for one, other in zip(there, here, strict=True):
            assert torch.equal(one.cpu(), other)

    def test_the_norm_after_is_the_bound(self, dtype: torch.dtype) -> None:
        grads = gradients(dtype, "cuda")
        parameters = [with_gradient(grad) for grad in grads]
        with no_waiting():
            gt.clip_grad_norm_(parameters, 1.0)
        bound = {torch.float16: 2e-3, torch.bfloat16: 8e-3}.get(dtype, 1e-5)
        assert exact_norm(numbers(grads), 2.0) == pytest.approx(1.0, rel=bound)

    def test_gradients_on_both_devices_are_one_vector(self, dtype: torch.dtype) -> None:
        grads = [torch.full((3,), 2.0, dtype=dtype), torch.full((3,), 2.0, dtype=dtype).cuda()]
        assert close(gt.get_total_norm(grads, dtype=torch.float64).item(), math.sqrt(24))

    def test_an_error_is_raised_where_it_was_asked_for(self, dtype: torch.dtype) -> None:
        grad = torch.tensor([1.0, math.nan], dtype=dtype, device="cuda")
        with pytest.raises(RuntimeError, match="Non-finite gradients: 'w'"):
            gt.get_total_norm([("w", grad)], error_if_nonfinite=True)


def with_gradient(grad: Tensor) -> Tensor:
    parameter = torch.empty_like(grad)
    parameter.grad = grad
    return parameter


def clip_with(grads: list[Tensor], bound: float, norm: Tensor, *, waiting: bool) -> None:
    parameters = [with_gradient(grad) for grad in grads]
    if waiting:
        gt.clip_grads_with_norm_(parameters, bound, norm)
        return
    with no_waiting():
        gt.clip_grads_with_norm_(parameters, bound, norm)
