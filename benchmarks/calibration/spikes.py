"""How often a step is called a spike that is none, and how many spikes are found.

    python -m benchmarks.calibration.spikes [--runs 60] [--seeds 1 2 3] [--steps 500]

takes norms of synthetic runs of 2,000 steps, then those of healthy training runs of three
architectures (`architectures.py`). It counts the steps that the rules GT210 and GT212 find in them,
and those that ZClip would clip by default; then how many are found of norms which are made to be so
many times the median of the hundred before, each by itself and as the last of its run. Last come
short runs, in which one step, but the first, is 3.3 times as large.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Final, TypeAlias

import torch
from torch import nn

from benchmarks.calibration.architectures import TRIALS, train
from benchmarks.harness.tables import table
from gradtool.core.judging.spikes import above_median, above_running_mean
from gradtool.rules.spikes import RAISED, SPIKE

STEPS: Final = 2000
WINDOW: Final = 100
FACTORS: Final = (2.0, 3.0, 4.0, 5.0)
PLANTED: Final = 10
"""Spikes for each run and factor."""

SHORT: Final = (4, 5, 8, 12, 20)
SHORT_RUNS: Final = 2000

HEALTHY: Final = ("gpt2-healthy", "cnn-healthy", "lora-healthy")

Norms: TypeAlias = Sequence[float]
Finder: TypeAlias = Callable[[Norms], set[int]]


def synthetic(seed: int) -> list[float]:
    """Norms that fall at first and drift then, under noise of 5 to 20 percent, some of it slow."""
    draw = random.Random(seed)
    sigma, memory = 0.05 + 0.15 * (seed % 10) / 9, (0.0, 0.5, 0.9)[seed % 3]
    start, level = draw.uniform(5.0, 20.0), draw.uniform(0.5, 2.0)
    fall, drift = draw.uniform(20.0, 200.0), draw.uniform(-0.5, 0.5)
    noise, norms = 0.0, []
    for step in range(STEPS):
        noise = memory * noise + math.sqrt(1.0 - memory**2) * draw.gauss(0.0, 1.0)
        trend = (level + start * math.exp(-step / fall)) * math.exp(drift * step / STEPS)
        norms.append(trend * math.exp(sigma * noise))
    return norms


def trained(name: str, seed: int, steps: int) -> list[float]:
    """The norm of each step of a training run."""
    norms: list[float] = []

    def note(model: nn.Module, _step: int) -> None:
        grads = [p.grad.double().flatten() for p in model.parameters() if p.grad is not None]
        norms.append(float(torch.cat(grads).norm()))

    train(TRIALS[name], seed, note, range(1, steps + 1))
    return norms


def _grave(max_z: float, norms: Norms) -> set[int]:
    limits = {**SPIKE.defaults(), "max_z": max_z}
    del limits["min_steps"]
    return {one.position for one in above_median(norms, **limits)}  # type: ignore[arg-type]


def _by_mean(max_z: float, factor: float, norms: Norms) -> set[int]:
    found = above_running_mean(norms, max_z=max_z, factor=factor, left_out=frozenset())
    return {one.position for one in found}


def finders() -> Mapping[str, Finder]:
    """The rules that are compared, by what they are called."""
    grave, raised = SPIKE.defaults(), RAISED.defaults()
    z, factor = float(str(raised["max_z"])), float(str(raised["factor"]))
    return {
        f"GT210: median, z {grave['max_z']}": partial(_grave, float(str(grave["max_z"]))),
        "median, z 3.5": partial(_grave, 3.5),
        "ZClip's default, z 2.5": partial(_by_mean, 2.5, 0.0),
        f"ZClip, z {z}": partial(_by_mean, z, 0.0),
        f"GT212: ZClip, z {z}, from {factor} times on": partial(_by_mean, z, factor),
    }


def found_at_once(find: Finder, runs: Sequence[Norms], factor: float) -> float:
    """The share of spikes of that factor which are found when they are the newest step."""
    hits = count = 0
    for seed, norms in enumerate(runs):
        draw = random.Random(seed)
        for _ in range(PLANTED):
            at = draw.randrange(WINDOW, len(norms))
            spike = factor * median(norms[at - WINDOW : at])
            hits += at in find([*norms[:at], spike])
            count += 1
    return hits / count


def report(title: str, runs: Sequence[Norms]) -> None:
    """Print the table of some healthy runs."""
    steps = sum(map(len, runs))
    rows = []
    for name, find in finders().items():
        false = [len(find(norms)) for norms in runs]
        found = (f"{100.0 * found_at_once(find, runs, factor):.1f} %" for factor in FACTORS)
        rows.append([name, str(sum(false)), f"{1000.0 * sum(false) / steps:.2f}", *found])
    print(f"\n{title}: {len(runs)} runs, {steps:,} steps")
    print(
        table(["rule", "found in healthy", "in 1,000", *(f"x{f:g} found" for f in FACTORS)], rows)
    )


def report_short() -> None:
    """Print what GT210 finds in short runs: the shares of healthy ones and of spikes."""
    draw, rows = random.Random(5), []
    for sigma in (0.1, 0.2, 0.3, 0.5):
        row = [f"{100 * sigma:.0f} %"]
        for steps in SHORT:
            false = found = 0
            for _ in range(SHORT_RUNS):
                norms = [math.exp(draw.gauss(0.0, sigma)) for _ in range(steps)]
                false += bool(_grave(5.0, norms))
                at = draw.randrange(1, steps)
                norms[at] = 3.3
                found += at in _grave(5.0, norms)
            row += [f"{100 * false / SHORT_RUNS:.1f} %", f"{100 * found / SHORT_RUNS:.0f} %"]
        rows.append(row)
    heads = (head for steps in SHORT for head in (f"{steps} steps: healthy", "x3.3"))
    print(f"\nGT210 in short runs, {SHORT_RUNS:,} each")
    print(table(["noise", *heads], rows))


def main() -> None:
    """Read the options, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=60, help="synthetic ones (60)")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3], help="(1 2 3)")
    parser.add_argument("--steps", type=int, default=500, help="of a training run (500)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report("synthetic", [synthetic(seed) for seed in range(options.runs)])
    report_short()
    for name in HEALTHY if options.seeds else ():
        report(name, [trained(name, seed, options.steps) for seed in options.seeds])


if __name__ == "__main__":
    main()
