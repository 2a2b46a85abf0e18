"""What it takes for a norm that rose to be a level that stays, by the rule GT213.

    python -m benchmarks.calibration.levels [--runs 60]

takes the synthetic runs of `spikes.py`, and counts for several numbers of steps: single steps that
GT210 finds and that would be taken for those of a level; errors in the steps after a rise; and
single steps that stand out from such a level, at several distances from its beginning.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Final

from benchmarks.calibration.spikes import WINDOW, Norms, synthetic
from benchmarks.harness.tables import table
from gradtool.core.judging.levels import levels_among
from gradtool.core.judging.spikes import above_median
from gradtool.rules.spikes import SPIKE

STEPS: Final = (3, 4, 5, 6, 8, 10)
PLANTED: Final = 10
AFTER: Final = 150
"""Steps of a run after its rise."""

_LIMITS: Final = {name: value for name, value in SPIKE.defaults().items() if name != "min_steps"}
_FACTOR: Final = float(str(_LIMITS["factor"]))


def found(norms: Norms) -> list[int]:
    """The positions that GT210 finds by itself."""
    return [one.position for one in above_median(norms, **_LIMITS)]  # type: ignore[arg-type]


def found_with_levels(norms: Norms, steps: int) -> list[int]:
    """Those that are left where levels that stay for so many steps are told once."""
    spikes = list(above_median(norms, **_LIMITS))  # type: ignore[arg-type]
    settled = levels_among(norms, [(one, _FACTOR) for one in spikes], steps).settled
    return [one.position for one in spikes if one.position not in settled]


def singles(runs: Sequence[Norms], factor: float) -> Iterator[Norms]:
    """Runs whose last step is that many times the median before it."""
    for seed, norms in enumerate(runs):
        draw = random.Random(seed)
        for _ in range(PLANTED):
            at = draw.randrange(WINDOW, len(norms))
            before = norms[max(at - 3 * WINDOW, 0) : at]
            yield [*before, factor * median(before[-WINDOW:])]


def risen(runs: Sequence[Norms], factor: float, steps: int) -> Iterator[Norms]:
    """Runs of which so many steps, after the first 200, are that much higher."""
    for seed, norms in enumerate(runs):
        at = random.Random(seed + 7).randrange(200, len(norms) - AFTER)
        yield [*norms[at - 200 : at], *(factor * norm for norm in norms[at : at + steps])]


def _row(title: str, runs: Sequence[Norms], *, last_only: bool) -> list[str]:
    """Of how many runs the last step is found, or how many are found on average."""

    def told(positions: Sequence[int], norms: Norms) -> float:
        return float(len(norms) - 1 in positions) if last_only else len(positions)

    plainly = [told(found(norms), norms) for norms in runs]
    cells = [f"{sum(plainly) / len(runs):.3f}"]
    for steps in STEPS:
        left = (told(found_with_levels(norms, steps), norms) for norms in runs)
        cells.append(f"{sum(left) / len(runs):.3f}")
    return [title, *cells]


def main() -> None:
    """Read the options, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=60, help="(60)")
    runs = [synthetic(seed) for seed in range(parser.parse_args().runs)]
    rows = [
        _row(f"single step x{factor:g}: found", [*singles(runs, factor)], last_only=True)
        for factor in (3.0, 4.0, 5.0)
    ]
    for rise in (3.1, 4.0, 10.0):
        made = [*risen(runs, rise, AFTER)]
        rows.append(_row(f"level x{rise:g}: findings in a run", made, last_only=False))
    for after in (8, 20, 40, 55, 70):
        made = [[*norms, 3.0 * median(norms[200:])] for norms in risen(runs, 4.0, after)]
        title = f"single step x3 on a level x4, {after} steps old: found"
        rows.append(_row(title, made, last_only=True))
    print(table(["", "without", *(f"{steps} steps" for steps in STEPS)], rows))


if __name__ == "__main__":
    main()
