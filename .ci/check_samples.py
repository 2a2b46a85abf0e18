"""Inspect every sample with an installed gradtool, and compare exit codes and norms.

Usage: inspect_samples.py path/to/gradtool
"""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

SAMPLES = Path(__file__).parent.parent / "sample_ckpts"


def main(gradtool: str) -> int:
    """Exit status 1 where a sample's result is not the expected one."""
    if importlib.util.find_spec("torch") is not None:
        print("torch is installed here: this environment proves nothing")
        return 1
    wrong = []
    expected = json.loads((SAMPLES / "expected.json").read_text())["checkpoints"]
    for name, sample in expected.items():
        command = [gradtool, "inspect", str(SAMPLES / name), "-f", "json"]
        run = subprocess.run(command, capture_output=True, check=False)
        norm = None
        if run.returncode == 0:
            (report,) = json.loads(run.stdout)["reports"]
            norm = report["total"] and report["total"]["norm"]
        print(f"{name:32} exit {run.returncode}  norm {norm}")
        if run.returncode != sample["exit_code"] or not _same(norm, _expected_norm(sample)):
            wrong.append(name)
    print(f"{len(expected) - len(wrong)} of {len(expected)} samples as expected")
    return 1 if wrong else 0


def _expected_norm(sample: dict) -> float | str | None:
    return sample["total"]["norms"]["2"] if sample.get("total") else None


def _same(found: float | str | None, expected: float | str | None) -> bool:
    if isinstance(found, float) and isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=1e-12)
    return found == expected


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
