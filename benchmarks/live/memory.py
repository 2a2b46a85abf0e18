"""How much a clip of large float32 gradients adds to the peak of resident memory.

    python -m benchmarks.live.memory gradtool|torch SIZE_GIB

is a process of its own for one of the two, and prints bytes. `show` has both run and prints a
table.
"""

from __future__ import annotations

import math
import resource
import sys

import torch

import gradtool.torch
from benchmarks.harness.tables import figure, table
from benchmarks.harness.timing import RSS_UNIT, Contender, measure
from benchmarks.live import sets as live_sets

CLIPS = {
    "gradtool": ("gradtool.torch.clip_grad_norm_", gradtool.torch.clip_grad_norm_),
    "torch": ("torch.nn.utils.clip_grad_norm_", torch.nn.utils.clip_grad_norm_),
}


def peak() -> int:
    """The peak of this process's resident memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT


def growth(who: str, size_gib: float) -> int:
    """What one clip adds to the peak.

    The gradients are filled where they lie, so that nothing was larger before; a call on a few
    elements has loaded whatever is loaded only once.
    """
    _, clip = CLIPS[who]
    clip([live_sets.holder(torch.ones(8))], 1.0)
    parameters = [live_sets.holder(grad) for grad in live_sets.large(size_gib).values()]
    elements = sum(parameter.numel() for parameter in parameters)
    before = peak()
    clip(parameters, live_sets.BOUND * live_sets.SCALE * math.sqrt(elements))
    return peak() - before


def show(size_gib: float) -> None:
    """Print the table."""
    rows = []
    for who, (label, _) in CLIPS.items():
        command = [sys.executable, "-m", "benchmarks.live.memory", who, str(size_gib)]
        contender = Contender(label, command)
        measure(contender)
        if contender.failure is not None:
            print(f"{label} failed: {contender.failure}")
        added = float(contender.samples[0].stdout) if contender.ok else math.nan
        rows.append([label, figure(contender.peak_bytes / 1e6, ".0f"), figure(added / 1e6, ".1f")])
    heads = ["call", "peak MB", "of it by the clip"]
    print(f"\nmemory of a process that clips large float32 gradients\n{table(heads, rows)}")


if __name__ == "__main__":
    print(growth(sys.argv[1], float(sys.argv[2])))
