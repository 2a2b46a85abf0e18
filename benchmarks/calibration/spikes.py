"""How often a step is called a spike that is none, and how many spikes are found.

    python -m benchmarks.calibration.spikes [--dir DIR] [--runs 60] [--seeds 1 2 3] [--steps 2000]

takes norms of synthetic runs of 2,000 steps, then those of healthy training runs (`norms.py`),
which are trained once and kept in DIR. It counts the steps that the rules GT210 and GT212 find in
them, and those that ZClip would clip; then how many are found of norms which are made to be so many
times the median of those before, each by itself and as the last of its run. That is the median of
the rule's own window, of 100 for ZClip: for GT210 three times another one are not three times.
Then come synthetic runs of one noise each, and short ones in which a step, not the first, is 3.3
times as large.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple, TypeAlias

import torch

from benchmarks.calibration.norms import RUNS, norms_of
from benchmarks.harness.tables import table
from gradtool.core.judging.spikes import above_median, above_running_mean
from gradtool.rules.spikes import RAISED, SPIKE

STEPS: Final = 2000
WINDOW: Final = 100
"""Norms before the first that is made a spike, and those of whose median it is a multiple."""

FACTORS: Final = (2.0, 3.0, 4.0, 5.0)
PLANTED: Final = 600
"""Spikes for each factor, in all runs of a kind together."""

SIGMAS: Final = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
MEMORIES: Final = (0.0, 0.5, 0.9)
RUNS_OF_ONE_NOISE: Final = 12

SHORT: Final = (4, 5, 8, 12, 20)
SHORT_RUNS: Final = 2000

Norms: TypeAlias = Sequence[float]


class Finder(NamedTuple):
    """A rule: what it is called, the positions that it finds, and how long its window is."""

    name: str
    find: Callable[[Norms], set[int]]
    window: int = WINDOW


def synthetic(seed: int, sigma: float | None = None, memory: float | None = None) -> list[float]:
    """Norms that fall at first and drift then, under noise, some of it slow.

    They are (level + start exp(-step / fall)) exp(drift step / 2000 + sigma noise), with a level of
    0.5 to 2, a start of 5 to 20, a fall of 20 to 200 steps and a drift of -0.5 to 0.5; the noise is
    normal with deviation 1, and each `memory` times the one before and something new. Unless given,
    sigma is 0.05 to 0.2 and the memory 0, 0.5 or 0.9, by the seed.
    """
    draw = random.Random(seed)
    sigma = 0.05 + 0.15 * (seed % 10) / 9 if sigma is None else sigma
    memory = MEMORIES[seed % 3] if memory is None else memory
    start, level = draw.uniform(5.0, 20.0), draw.uniform(0.5, 2.0)
    fall, drift = draw.uniform(20.0, 200.0), draw.uniform(-0.5, 0.5)
    noise, norms = 0.0, []
    for step in range(STEPS):
        noise = memory * noise + math.sqrt(1.0 - memory**2) * draw.gauss(0.0, 1.0)
        trend = (level + start * math.exp(-step / fall)) * math.exp(drift * step / STEPS)
        norms.append(trend * math.exp(sigma * noise))
    return norms


def _by_median(window: int, max_z: float) -> Finder:
    limits = {**SPIKE.defaults(), "window": window, "max_z": max_z}
    del limits["min_steps"]

    def find(norms: Norms) -> set[int]:
        return {one.position for one in above_median(norms, **limits)}  # type: ignore[arg-type]

    return Finder(f"median of {window}, z {max_z:g}", find, window)


def _by_mean(max_z: float, factor: float = 0.0) -> Finder:
    def find(norms: Norms) -> set[int]:
        found = above_running_mean(norms, max_z=max_z, factor=factor, left_out=frozenset())
        return {one.position for one in found}

    return Finder(f"ZClip, z {max_z:g}{f', from x{factor:g} on' if factor else ''}", find)


def _default(name: str) -> float:
    rule, _, parameter = name.partition(".")
    return float(str({"GT210": SPIKE, "GT212": RAISED}[rule].defaults()[parameter]))


GRAVE: Final = _by_median(int(_default("GT210.window")), _default("GT210.max_z"))
ZCLIP: Final = _by_mean(2.5)
"""With the threshold that its authors propose."""

FINDERS: Final = (
    GRAVE._replace(name=f"GT210: {GRAVE.name}"),
    _by_median(50, 5.0),
    _by_median(100, 4.0),
    _by_mean(_default("GT212.max_z"), _default("GT212.factor"))._replace(name="GT212"),
    _by_mean(4.0),
    ZCLIP,
)


def found_at_once(rule: Finder, runs: Sequence[Norms], factor: float) -> float:
    """The share of spikes of that factor which are found when they are the newest step."""
    hits = count = 0
    for seed, norms in enumerate(runs):
        draw = random.Random(seed)
        for _ in range(-(-PLANTED // len(runs))):
            at = draw.randrange(WINDOW, len(norms))
            spike = factor * median(norms[at - rule.window : at])
            hits += at in rule.find([*norms[:at], spike])
            count += 1
    return hits / count


def report(title: str, runs: Sequence[Norms]) -> None:
    """Print the table of some healthy runs."""
    steps = sum(map(len, runs))
    rows = []
    for rule in FINDERS:
        false = [len(rule.find(norms)) for norms in runs]
        found = (f"{100.0 * found_at_once(rule, runs, factor):.1f} %" for factor in FACTORS)
        rows.append([rule.name, str(sum(false)), f"{1000.0 * sum(false) / steps:.2f}", *found])
    print(f"\n{title}: {len(runs)} runs, {steps:,} steps")
    print(
        table(["rule", "found in healthy", "in 1,000", *(f"x{f:g} found" for f in FACTORS)], rows)
    )


def report_noises() -> None:
    """Print what noise of one deviation and memory does to GT210 and to ZClip's default."""
    rows = []
    for memory in MEMORIES:
        for sigma in SIGMAS:
            runs = [synthetic(seed, sigma, memory) for seed in range(RUNS_OF_ONE_NOISE)]
            false = [
                1000.0 * sum(len(rule.find(norms)) for norms in runs) / (STEPS * len(runs))
                for rule in (GRAVE, ZCLIP)
            ]
            found = 100.0 * found_at_once(GRAVE, runs, 3.0)
            away = f"{math.log(3.0) / sigma:.1f}"
            figures = [f"{false[0]:.2f}", f"{found:.1f} %", f"{false[1]:.1f}"]
            rows.append([f"{sigma:g}", f"{memory:g}", away, *figures])
    heads = ["sigma", "memory", "x3 in sigma", "GT210 in 1,000", "x3 found", "ZClip in 1,000"]
    print(f"\nsynthetic runs of one noise, {RUNS_OF_ONE_NOISE} of each")
    print(table(heads, rows))


def report_short() -> None:
    """Print what GT210 finds in short runs: the shares of healthy ones and of spikes."""
    draw, rows = random.Random(5), []
    for sigma in (0.1, 0.2, 0.3, 0.5):
        row = [f"{100 * sigma:.0f} %"]
        for steps in SHORT:
            false = found = 0
            for _ in range(SHORT_RUNS):
                norms = [math.exp(draw.gauss(0.0, sigma)) for _ in range(steps)]
                false += bool(GRAVE.find(norms))
                at = draw.randrange(1, steps)
                norms[at] = 3.3
                found += at in GRAVE.find(norms)
            row += [f"{100 * false / SHORT_RUNS:.1f} %", f"{100 * found / SHORT_RUNS:.0f} %"]
        rows.append(row)
    heads = (head for steps in SHORT for head in (f"{steps} steps: healthy", "x3.3"))
    print(f"\nGT210 in short runs, {SHORT_RUNS:,} each")
    print(table(["noise", *heads], rows))


def main() -> None:
    """Read the options, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    kept = Path(tempfile.gettempdir()) / "gradtool-norms"
    parser.add_argument("--dir", type=Path, default=kept, help="where norms are kept (%(default)s)")
    parser.add_argument("--runs", type=int, default=60, help="synthetic ones (60)")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3], help="(1 2 3)")
    parser.add_argument("--steps", type=int, default=STEPS, help="of a training run (2000)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report("synthetic", [synthetic(seed) for seed in range(options.runs)])
    for name in RUNS if options.seeds else ():
        runs = [norms_of(options.dir, name, seed, options.steps) for seed in options.seeds]
        report(name, runs)
    report_noises()
    report_short()


if __name__ == "__main__":
    main()
