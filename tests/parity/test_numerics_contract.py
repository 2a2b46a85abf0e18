"""What the array functions promise of numbers: true norms, one rounding, nothing absorbed.

Laws hold for `gradtool.torch` and `gradtool.numpy` alike; truth has 60 digits or is by hand.
"""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from dumps import encoded
from oracle import close, exact_norm

import gradtool.numpy as gn
import gradtool.torch as gt

INF, NAN = math.inf, math.nan
F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
DTYPES = (F16, BF16, F32, F64, torch.complex64, torch.complex128)
ORDERS = (0.0, 0.1, 0.5, 1.0, 2.0, 3.0, 64.0, INF, -INF, -0.1, -1.0, -2.0, -64.0)
MANY = 4_000_000

Clipped = tuple[float, list[torch.Tensor]]
Clip = Callable[..., Clipped]


def by_torch(grads: Sequence[torch.Tensor], max_norm: float = INF, p: float = 2.0) -> Clipped:
    parameters = [torch.empty_like(grad) for grad in grads]
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad.clone()
    norm = gt.clip_grad_norm_(parameters, max_norm, p, dtype=F64)
    return norm.item(), [held.grad for held in parameters]


def by_numpy(grads: Sequence[torch.Tensor], max_norm: float = INF, p: float = 2.0) -> Clipped:
    tree, norm = gn.clip_grad_norm([as_array(grad) for grad in grads], max_norm, p)
    return norm, [as_tensor(array) for array in tree]


def as_array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    if tensor.dtype is BF16:
        return tensor.clone().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.clone().numpy()


def as_tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(BF16)
    return torch.from_numpy(array.copy())


both = pytest.mark.parametrize("clip", [by_torch, by_numpy])
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_order = pytest.mark.parametrize("p", ORDERS)


def wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else F64)


def magnitudes(grads: Sequence[torch.Tensor]) -> list[float]:
    return [abs(value) for grad in grads for value in wide(grad).flatten().tolist()]


def tensor(values: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor(values, dtype=F64).to(dtype)


def noise(dtype: torch.dtype) -> list[torch.Tensor]:
    """Normal numbers of quite different sizes, in shapes with and without much in them."""
    generator, kind = torch.Generator().manual_seed(3), wide(torch.empty(0, dtype=dtype)).dtype
    shapes = [(7,), (50, 3), (), (0, 4), (2, 2, 2)]
    parts = [torch.randn(shape, generator=generator, dtype=kind) for shape in shapes]
    return [(part * 10.0 ** (1 - i)).to(dtype) for i, part in enumerate(parts)]


def extremes(dtype: torch.dtype) -> list[torch.Tensor]:
    """The largest and the smallest magnitudes; of float64 those with norms that it holds."""
    limits = torch.finfo(dtype)
    low, high = (1e-300, 1e300) if limits.bits == 64 else (limits.tiny * limits.eps, limits.max)
    part = tensor([high, -low, high, low * 3, 1.0], dtype.to_real() if dtype.is_complex else dtype)
    return [torch.complex(part, part) if dtype.is_complex else part]


def with_zeros(dtype: torch.dtype) -> list[torch.Tensor]:
    """Zeros of both signs among others: they make every negative norm zero."""
    return [tensor([0.0, 3.0], dtype), tensor([-0.0, -4.0], dtype), tensor([0.0], dtype)]


@both
@each_dtype
@each_order
@pytest.mark.parametrize("data", [noise, extremes, with_zeros])
def test_norms_are_true_for_every_dtype_order_and_magnitude(
    clip: Clip, dtype: torch.dtype, p: float, data: Callable[[torch.dtype], list[torch.Tensor]]
) -> None:
    true = exact_norm(magnitudes(data(dtype)), p)
    found, after = clip(data(dtype), INF, p)
    assert close(found, true)
    assert all(map(torch.equal, after, data(dtype)))


OUT_OF_RANGE = [
    (F16, [6e4] * 2, 84852.81374238571),
    (F16, [100.0] * 10**6, 1e5),
    (F32, [1e20] * 4, 2 * np.float64(np.float32(1e20))),
    (F64, [1e200] * 4, 2e200),
    (F32, [1e-23] * 4, 2 * np.float64(np.float32(1e-23))),
    (F32, [3e38] * 4, 2 * np.float64(np.float32(3e38))),
]
"""torch's norms of these are infinite, but for the one of 1e-23, which is 0."""


@both
@pytest.mark.parametrize(("dtype", "values", "true"), OUT_OF_RANGE)
def test_squares_neither_overflow_nor_underflow(
    clip: Clip, dtype: torch.dtype, values: list[float], true: float
) -> None:
    before = tensor(values, dtype)
    for bound in (0.0, 1.0, 1e-8 if dtype is F32 else 1e-3):
        norm, (after,) = clip([before], bound)
        assert close(norm, true)
        scaled = wide(before) * min(1.0, bound / (norm + 1e-6))
        assert torch.equal(after, scaled.to(dtype))
    assert dtype is F16 or after.count_nonzero() == len(values)


def long_tensors() -> Iterator[tuple[torch.Tensor, float, float]]:
    """Millions of elements, with an order and the true norm: data that defeats lucky rounding."""
    near_one = 1 + 1e-4 * torch.rand(MANY, generator=torch.Generator().manual_seed(5))
    exact = near_one.to(F64)
    yield near_one, 1.0, math.fsum(exact.tolist())
    yield near_one, 2.0, math.sqrt(math.fsum(exact.square().tolist()))
    for dtype, p in itertools.product((F32, BF16, F64), (0.1, 0.5, 1.0, 2.0, 3.0, -1.0)):
        third = torch.full((MANY,), 1 / 3, dtype=dtype)
        yield third, p, third[0].item() * float(MANY) ** (1 / p)


@both
def test_long_sums_do_not_drift_and_no_thread_changes_a_bit(clip: Clip) -> None:
    threads = torch.get_num_threads()
    try:
        for grad, p, true in long_tensors():
            found = set()
            for number in (1, 2):
                torch.set_num_threads(number)
                found.add(clip([grad], INF, p)[0])
            assert len(found) == 1
            assert close(found.pop(), true), (grad.dtype, p)
    finally:
        torch.set_num_threads(threads)


def test_blas_threads_change_no_bit() -> None:
    program = (
        "import numpy as np, gradtool.numpy as gn; x = np.random.default_rng(0).random(10**6);"
        "print([gn.clip_grad_norm(x.astype(t), 1, p)[1].hex() for t in 'fd' for p in (1, 2, 3)])"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    threads = [{"OPENBLAS_NUM_THREADS": number} for number in ("1", "2", "5")]
    found = {subprocess.check_output(command, env={**os.environ, **some}) for some in threads}
    assert len(found) == 1


@both
@each_order
def test_cutting_and_order_change_nothing(clip: Clip, p: float) -> None:
    whole = torch.randn(5000, generator=torch.Generator().manual_seed(7), dtype=F32)
    true = clip([whole], INF, p)[0]
    for pieces in (whole.split(1), whole.split(999), whole.flip(0).split(64)):
        assert close(clip(pieces, INF, p)[0], true)


@both
@each_dtype
@each_order
def test_norms_of_what_is_not_finite_follow_ieee(clip: Clip, dtype: torch.dtype, p: float) -> None:
    for bad in (NAN, INF, -INF):
        true = abs(bad) if p > 0 or math.isnan(bad) else exact_norm([2.0, 3.0], p)
        found, _ = clip([tensor([2.0], dtype), tensor([bad, 3.0], dtype)], INF, p)
        assert found == pytest.approx(3.0 if p == 0 else true, rel=1e-12, nan_ok=True)


@both
@each_dtype
def test_one_nan_spreads_and_one_infinity_zeroes_the_rest(clip: Clip, dtype: torch.dtype) -> None:
    _, after = clip([tensor([NAN, 1.0], dtype), tensor([2.0], dtype)], 1.0)
    assert all(part.isnan().all() for part in after)
    _, (first, second) = clip([tensor([INF, 1.0], dtype), tensor([2.0], dtype)], 1.0)
    assert first[0].isnan()
    assert first[1] == second[0] == 0


@both
def test_a_complex_element_is_nan_if_a_part_is_and_the_other_finite(clip: Clip) -> None:
    for z, p in itertools.product((complex(NAN, 1), complex(1, NAN)), (0.1, 1, 2, INF, -1, -INF)):
        assert math.isnan(clip([torch.tensor([1j, z])], INF, p)[0])


def every_number(dtype: torch.dtype) -> torch.Tensor:
    """All finite values of a half type; of others, values of all sizes that float32 has."""
    if dtype.itemsize == 2:
        every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
        return every[every.isfinite()]
    spread = torch.logspace(-38, 38, 4000, dtype=F64)
    found = spread * torch.randn(4000, generator=torch.Generator().manual_seed(1))
    return (found if not dtype.is_complex else torch.complex(found, found.flip(0))).to(dtype)


def rounded(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The nearest value of `dtype`, ties to even."""
    if dtype not in (F16, BF16):
        return exact.to(dtype)
    codes = encoded(exact.numpy(), "F16" if dtype is F16 else "BF16")
    return torch.from_numpy(codes.view(np.int16)).view(dtype)


@both
@each_dtype
@pytest.mark.parametrize("p", [1.0, 2.0, INF])
@pytest.mark.parametrize("part", [0.37, 1 / 3, 1e-3])
def test_elements_are_scaled_in_float64_and_rounded_once(
    clip: Clip, dtype: torch.dtype, p: float, part: float
) -> None:
    before = every_number(dtype)
    bound = part * clip([before], INF, p)[0]
    norm, (after,) = clip([before], bound, p)
    exact = wide(before) * (bound / (norm + 1e-6))
    once = rounded(exact, dtype)
    by_float32 = exact.to(F32).to(dtype) if dtype in (F16, BF16) else once
    assert ((after == once) | (after == by_float32)).all()


@both
@each_dtype
@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, INF])
def test_clipped_gradients_are_within_the_bound_and_stay_so(
    clip: Clip, dtype: torch.dtype, p: float
) -> None:
    limits, before = torch.finfo(dtype), noise(dtype)
    _, after = clip(before, 0.7, p)
    least = limits.tiny * limits.eps
    slack = least * len(magnitudes(before)) ** (1 / p)
    assert exact_norm(magnitudes(after), p) <= 0.7 * (1 + limits.eps) + slack
    for once, twice in zip(after, clip(after, 0.7, p)[1], strict=True):
        torch.testing.assert_close(twice, once, rtol=2 * limits.eps + 2e-6, atol=least)


@both
def test_what_is_no_order_or_no_bound_is_refused(clip: Clip) -> None:
    grads = [torch.tensor([3.0, 4.0])]
    for max_norm, p in ((-1.0, 2.0), (NAN, 2.0), (-INF, 2.0), (1.0, NAN), (1.0, "two")):
        with pytest.raises(ValueError, match=r"max_norm|norm_type|could not convert string"):
            clip(grads, max_norm, p)
    assert (clip(grads, INF, "inf")[0], clip(grads, INF, "-inf")[0]) == (4.0, 3.0)


@both
@each_order
def test_tensors_without_elements_add_nothing(clip: Clip, p: float) -> None:
    empty, full = torch.empty(0, 3), tensor([3.0, 4.0], F32)
    assert clip([empty, full, empty], INF, p)[0] == clip([full], INF, p)[0]
    assert clip([empty], INF, p)[0] == clip([], INF, p)[0] == 0.0
    assert gt.clip_grad_value_([], 1.0) is gt.clip_grad_value_([torch.zeros(2)], 1.0) is None


@both
def test_gradients_of_all_dtypes_are_one_vector_with_no_rounding_between(clip: Clip) -> None:
    assert close(clip([tensor([1.0], BF16) for _ in range(1000)])[0], math.sqrt(1000))
    norm, after = clip([tensor([3.0], dtype) for dtype in DTYPES], 1.0)
    assert close(norm, math.sqrt(54))
    assert [grad.dtype for grad in after] == list(DTYPES)


def test_torch_names_the_gradients_that_are_not_finite_where_it_can() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    module[1].bias.grad[0] = NAN
    with pytest.raises(RuntimeError, match=r"^The total norm of order 2\.0 .*1\.bias") as raised:
        gt.clip_grad_norm_(module.named_parameters(), 1.0, error_if_nonfinite=True)
    assert not any(name in str(raised.value) for name in ("0.weight", "0.bias", "1.weight"))


def test_torch_counts_and_scales_shared_elements_once() -> None:
    memory = torch.tensor([3.0, 4.0, 12.0])
    assert gt.get_total_norm([memory, memory, memory[:2], memory.view(3, 1)]).item() == 13.0
    first, second = torch.zeros(3), torch.zeros(2)
    first.grad, second.grad = memory, memory[:2]
    assert gt.clip_grad_norm_([first, second, first], 6.5).item() == 13.0
    torch.testing.assert_close(memory, torch.tensor([1.5, 2.0, 6.0]))


def test_torch_takes_sparse_gradients_by_their_sums() -> None:
    parameter, indices = torch.zeros(9), [[1, 1, 5]]
    parameter.grad = torch.sparse_coo_tensor(indices, [1.0, 2, 4], (9,), check_invariants=True)
    for p, true in ((2.0, 5.0), (1.0, 7.0), (0.0, 2.0), (INF, 4.0), (-INF, 3.0)):
        assert close(gt.get_total_norm([parameter.grad], p, dtype=F64).item(), true)
    assert gt.clip_grad_norm_([parameter], 2.5).item() == 5.0
    assert parameter.grad.to_dense().tolist() == pytest.approx([0, 1.5, 0, 0, 0, 2, 0, 0, 0])
