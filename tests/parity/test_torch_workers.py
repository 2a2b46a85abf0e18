"""Torch's threads or ours: who computes a block changes no bit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import get_ident

import pytest
import torch
from torch import Tensor

from gradtool.torch import _norm, _scale
from gradtool.torch._blocks import Block
from gradtool.torch._gradients import gather
from gradtool.torch._workers import STALLS, for_each_block

CPU = torch.device("cpu")


def gradients(dtype: torch.dtype) -> list[Tensor]:
    """Some millions of elements, in tensors of many blocks and in many small ones."""
    seed = torch.Generator().manual_seed(3)
    sizes = [(1200, 2100), (777_777,), *[(31, 33)] * 400, (), (0,)]
    return [torch.randn(size, generator=seed).mul_(1e-3).to(dtype) for size in sizes]


@pytest.fixture
def always_stalled(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A switch after which every block but the first ones is left to threads of ours."""

    def switch() -> None:
        for module in (_norm, _scale):
            monkeypatch.setattr(module, "for_each_block", partial(for_each_block, stalled_s=-1.0))

    return switch


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("p", [0.5, 2.0, 3.0])
def test_norms_and_elements_are_the_same_whoever_computes_them(
    dtype: torch.dtype, p: float, always_stalled: Callable[[], None]
) -> None:
    ours, theirs = gradients(dtype), gradients(dtype)
    coef = torch.tensor(0.3337, dtype=torch.float64)
    expected = _norm.total_norm(gather(theirs), p, CPU)
    _scale.scale(gather(theirs), coef)
    before = torch.get_num_threads()
    always_stalled()
    assert _norm.total_norm(gather(ours), p, CPU) == expected
    _scale.scale(gather(ours), coef)
    assert all(map(torch.equal, ours, theirs))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_no_number_of_threads_changes_a_bit(dtype: torch.dtype, p: float) -> None:
    before, seen = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            grads = gradients(dtype)
            norm = _norm.total_norm(gather(grads), p, CPU)
            _scale.scale(gather(grads), 1.0 / norm)
            seen.append([norm, *grads])
    finally:
        torch.set_num_threads(before)
    for other in seen[1:]:
        assert all(map(torch.equal, seen[0], other))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.complex64], ids=str)
def test_small_tensors_are_left_to_no_thread_of_ours(dtype: torch.dtype) -> None:
    large = torch.ones(1 << 21, dtype=dtype)
    small = [torch.ones(size, dtype=dtype) for size in (9, 13_000, 20_000, 28_000) * 9]
    (blocks,) = gather([*small[:5], large, *small[5:]]).groups.values()
    here, seen = get_ident(), []

    def thread_and_size(_buffers: object, block: Block) -> int:
        seen.append((get_ident() == here, len(block.tensors)))
        return block.numel

    sizes = for_each_block(thread_and_size, blocks, CPU, dtype, stalled_s=-1.0)
    assert sizes == [block.numel for block in blocks]
    assert any(not is_here for is_here, _ in seen)
    assert all(is_here for is_here, tensors in seen if tensors > 1)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no list of threads here")
def test_torch_starts_no_thread_for_small_tensors() -> None:
    """torch starts its threads when they first have something to do."""
    code = """
import os, torch
torch.set_num_threads(2)
import gradtool.torch as gt
def threads_after(grads, p):
    parameters = [torch.empty_like(grad) for grad in grads]
    for parameter, grad in zip(parameters, grads):
        parameter.grad = grad
    gt.clip_grad_norm_(parameters, 0.1, p)
    return len(os.listdir("/proc/self/task"))
alone = len(os.listdir("/proc/self/task"))
for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64):
    for p in (2.0, 3.0, -1.0, float("inf")):
        grads = [torch.ones(size, dtype=dtype) for size in (64, 700, 3) * 300]
        assert threads_after(grads, p) == alone, (dtype, p)
assert threads_after([torch.ones(1 << 17)], 2.0) > alone
"""
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_an_error_in_a_thread_of_ours_comes_out() -> None:
    (blocks,) = gather(gradients(torch.float32)).groups.values()
    seen: list[int] = []

    def one_of_ours_fails(_buffers: object, _block: object) -> None:
        seen.append(1)
        if len(seen) > STALLS:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        for_each_block(one_of_ours_fails, blocks, CPU, torch.float32, stalled_s=-1.0)


def test_nobody_works_on_after_an_error() -> None:
    grads = [torch.ones(1 << 17) for _ in range(160)]
    (blocks,) = gather(grads).groups.values()
    started, ended = [], []

    def fifth_fails(_buffers: object, _block: object) -> None:
        started.append(1)
        if len(started) == 5:
            raise ZeroDivisionError
        time.sleep(0.002)
        ended.append(1)

    with pytest.raises(ZeroDivisionError):
        for_each_block(fifth_fails, blocks, CPU, torch.float32, stalled_s=-1.0)
    at_the_raise = len(ended)
    time.sleep(0.2)
    assert len(ended) == at_the_raise < len(blocks) - 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_a_forked_child_starts_threads_of_its_own() -> None:
    code = """
import os, torch
torch.set_num_threads(2)
from gradtool.torch._gradients import gather
from gradtool.torch._workers import for_each_block
grads = [torch.full((300_000,), 0.5), torch.full((300_000,), 0.5)]
(blocks,) = gather(grads).groups.values()
def total():
    kernel = lambda buffers, block: float(buffers.flat(block)[:20_000].sum())
    return sum(for_each_block(kernel, blocks, torch.device("cpu"), torch.float32, stalled_s=-1.0))
expected = total()
child = os.fork()
if child == 0:
    os._exit(0 if total() == expected else 1)
print(os.waitpid(child, 0)[1])
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout == "0\n"
