"""Gradients that are on the device already: the backend's two functions beside torch and a copy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from benchmarks.gpu.groups import Group, OnDevice
from benchmarks.harness.bouts import Bout, Call, wall_clock
from benchmarks.harness.tables import at_least
from benchmarks.live.on_gpu import COPY, copy_call, device_clock
from benchmarks.live.sets import DTYPES, SMALL_TENSORS
from gradtool.core.dtypes import DType
from gradtool.core.stats import TensorStats, merge
from gradtool.engine.torch_backend import encodings as torch_encodings
from gradtool.engine.torch_backend import kernels as torch_kernels

LARGE_TENSORS = 300
SMALL_ELEMENTS = 1_000
KINDS = {**DTYPES, "float64": torch.float64}

NORM = "norm only"
NORM_WHOLE = "norm only, all in one group"
STATS = "all statistics"
FOREACH = "torch._foreach_norm"
TOTAL = "torch.nn.utils.get_total_norm"

CACHE_NBYTES = 256 << 20
"""More than a device keeps of what it has just read."""

LEAST_BANDWIDTH = 0.7
LEAST_SPEED = 0.9

Function = Callable[[], Any]


def compare(size_gib: float, device: str, device_name: str, runs: int) -> Iterator[str]:
    """All tables, and the limits on large tensors."""
    print(
        "\nGB/s are bytes of gradients by median time. A copy of n bytes in t seconds reads n and\n"
        "writes n: its GB/s are n/t, the bandwidth of its reading, while its traffic is 2n/t."
    )
    for name in ("large", "small"):
        for dtype, kind in KINDS.items():
            each = int(size_gib * 2**30) // kind.itemsize // LARGE_TENSORS
            large = name == "large"
            numels = [each] * LARGE_TENSORS if large else [SMALL_ELEMENTS] * SMALL_TENSORS
            gradients = OnDevice(numels, kind, device)
            size = f"{gradients.nbytes / 1e9:.2f} GB {dtype}"
            groups = len(gradients.groups)
            title = f"{len(numels):,} {name} tensors, {size} in {groups} groups on {device_name}"
            bout = bout_of(gradients, title, device)
            bout.run(runs)
            bout.show()
            if large:
                yield from limits(bout, dtype, judged=device == "cuda")
            del gradients, bout
            # The backend's groups depend on how much is free.
            torch.cuda.empty_cache()


def limits(bout: Bout, dtype: str, *, judged: bool) -> Iterator[str]:
    """What the norm alone should reach on large tensors, in one call as torch's own is."""
    # What reads n bytes could at best be as fast as half of what reads and writes n.
    share = bout.ratio(COPY, NORM_WHOLE) / 2.0
    what = f"norm only by the traffic of a copy, {dtype}"
    yield at_least(what, share, LEAST_BANDWIDTH, judged=judged)
    speed = bout.ratio(FOREACH, NORM_WHOLE)
    yield at_least(f"norm only by {FOREACH}, {dtype}", speed, LEAST_SPEED, judged=judged)


def bout_of(gradients: OnDevice, title: str, device: str) -> Bout:
    """Everybody on the same memory, of which nothing is left in a cache."""
    other = torch.zeros(CACHE_NBYTES, dtype=torch.uint8, device=device)
    raw, tensors, dtype = gradients.whole.raw, gradients.tensors, gradients.dtype
    calls = [
        _call(NORM, other.zero_, norms_of(gradients.groups, dtype), _norm_of_norms),
        _call(NORM_WHOLE, other.zero_, norms_of([gradients.whole], dtype), _norm_of_norms),
        _call(STATS, other.zero_, stats_of(gradients.groups, dtype), _norm_of_stats),
        _call(
            FOREACH,
            other.zero_,
            lambda: [torch.stack(torch._foreach_norm(tensors, 2.0)).cpu()],
            _norm_of_norms,
        ),
        Call(TOTAL, other.zero_, lambda _: (None, torch.nn.utils.get_total_norm(tensors))),
        copy_call(raw[: gradients.nbytes], other.zero_),
    ]
    clock = device_clock if device == "cuda" else wall_clock
    truth = gradients.truth
    return Bout(title, calls, gradients.nbytes, truth, first=NORM, clock=clock, unit="ms")


def _call(
    label: str, prepare: Function, function: Function, norm_of: Callable[[Any], float]
) -> Call:
    return Call(label, prepare, lambda _: (function(), None), norm_of=norm_of)


def norms_of(groups: Sequence[Group], dtype: DType) -> Function:
    """The backend's sums of squares alone, as norms, all fetched at the end."""
    ready = []
    for raw, counts in groups:
        values = torch_encodings.real_values(raw, dtype, big_endian=False)
        rows = list(map(torch_encodings.rows_of, counts))
        ready.append((values, torch_kernels.view_rows(rows, values.device, most_on_cpu=4)))
    return lambda: [
        torch.cat([torch_kernels.norms(values, views, 2.0) for values, views in ready]).cpu()
    ]


def stats_of(groups: Sequence[Group], dtype: DType) -> Function:
    """Everything that the backend finds out, group by group, as one of its threads does."""
    return lambda: [
        stats for raw, counts in groups for stats in torch_kernels.stats(raw, dtype, counts, 2.0)
    ]


def _norm_of_norms(columns: Sequence[Any]) -> float:
    return math.sqrt(math.fsum(float(one) ** 2 for column in columns for one in column.tolist()))


def _norm_of_stats(found: list[TensorStats]) -> float:
    return merge(found, 2.0).norm
