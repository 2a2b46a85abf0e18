"""What `gradtool diff` says of faults that are planted in a dump, in each layout.

    python -m benchmarks.calibration.planted --dir DIR

saves the gradients of a small GPT and a copy with a fault (`tests/comparing/planted.py`), compares
them, and prints the first sentence of the diagnosis.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

TESTS = Path(__file__).parents[2] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "layouts")]

from comparing.planted import (  # noqa: E402 - of the tests
    FAULTS,
    LAYOUTS,
    Fault,
    gradients,
    reference,
)

import gradtool  # noqa: E402
from gradtool import Difference  # noqa: E402


def is_right(fault: Fault, found: Difference) -> bool:
    """Whether the fault is told, by the right rule and its words, and nothing else is."""
    told = found.diagnosis
    return [one.name for one in told] == [fault.rule] and all(
        w in told[0].text for w in fault.words
    )


def main() -> int:
    """Exit status 1 where a fault is told as another one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dir", type=Path, required=True, help="for the dumps")
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    grads, right, count = gradients(), 0, 0
    for layout, (save_a, save_b) in LAYOUTS.items():
        print(f"\n{layout}")
        for number, (name, fault) in enumerate(FAULTS.items()):
            a, b = reference(name, grads), fault.plant(grads)
            stems = [options.dir / f"{number}-{count}-{side}" for side in "ab"]
            found = gradtool.diff(save_a(a, stems[0]), save_b(b, stems[1]))
            told = "; ".join(f"{one.code} {one.name}: {one.text}" for one in found.diagnosis)
            print(f"  {name:<30} {told or '-'}")
            right += is_right(fault, found)
            count += 1
    print(f"\n{right} of {count} faults are told as what they are")
    return 0 if right == count else 1


if __name__ == "__main__":
    sys.exit(main())
