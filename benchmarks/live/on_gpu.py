"""The same gradients on a GPU: norms and clipping beside torch's and beside a plain copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

import gradtool.torch
from benchmarks.harness.bouts import Bout, Call
from benchmarks.live.peers import torch_calls
from benchmarks.live.sets import DTYPES, Live

COPY = "copy on the device"


def compare(name: str, base: Mapping[str, Tensor], runs: int) -> None:
    """Both tables of one set of gradients, for each type."""
    for dtype, kind in DTYPES.items():
        live = Live(base, kind, "cuda")
        title = f"{name}, {live.nbytes / 1e9:.2f} GB {dtype} on {torch.cuda.get_device_name()}"
        for bout in bouts(live, title):
            bout.run(runs)
            bout.show()


def bouts(live: Live, title: str) -> Iterator[Bout]:
    """The norm alone, and clipping."""
    yield _bout(f"norm of {title}", [*_norm_calls(live), _copy(live)], live)
    yield _bout(f"clip of {title}", [*torch_calls(live), _copy(live)], live)


def _bout(title: str, calls: list[Call], live: Live) -> Bout:
    return Bout(title, calls, live.nbytes, live.truth, live.bound, clock=device_clock, unit="ms")


def device_clock(function: Callable[[], Any]) -> tuple[float, Any]:
    """Time by the device's own events, from an idle device to all work done."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    answer = function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3, answer


def _norm_calls(live: Live) -> list[Call]:
    grads = list(live.grads.values())
    return [
        Call(
            "gradtool.torch.get_total_norm",
            live.restore,
            lambda _: (None, gradtool.torch.get_total_norm(grads, dtype=torch.float64)),
        ),
        Call(
            "torch.nn.utils.get_total_norm",
            live.restore,
            lambda _: (None, torch.nn.utils.get_total_norm(grads)),
        ),
    ]


def _copy(live: Live) -> Call:
    """As many bytes from one place of the device's memory to another."""
    device = next(iter(live.grads.values())).device
    source = torch.zeros(live.nbytes, dtype=torch.uint8, device=device)
    return copy_call(source, live.restore)


def copy_call(source: Tensor, prepare: Callable[[], Any]) -> Call:
    """A copy of `source` within its device's memory, which reads its bytes and writes as many."""
    target = torch.zeros_like(source)
    return Call(COPY, prepare, lambda _: (target.copy_(source), None))
