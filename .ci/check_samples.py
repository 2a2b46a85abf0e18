"""Inspect, check and clip every sample with an installed gradtool; compare with what is expected.

Usage: check_samples.py path/to/gradtool
"""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SAMPLES = Path(__file__).parent.parent / "sample_ckpts"

Facts = dict[str, Any]


def main(gradtool: str) -> int:
    """Exit status 1 where a sample's result is not the expected one."""
    if importlib.util.find_spec("torch") is not None:
        print("torch is installed here: this environment proves nothing")
        return 1
    samples = json.loads((SAMPLES / "expected.json").read_text())["checkpoints"]
    wrong = sum(not _as_expected(gradtool, name, sample) for name, sample in samples.items())
    print(f"{len(samples) - wrong} of {len(samples)} samples as expected")
    return 1 if wrong else 0


def _as_expected(gradtool: str, name: str, sample: dict) -> bool:
    """Whether one sample is inspected and clipped as it should be; prints a line about it."""
    path = str(SAMPLES / name)
    total = sample.get("total")
    known = [{"exit_code": sample["exit_code"], "norm": total and total["norms"]["2"]}]
    known.append(sample["check"])
    found = [_inspected(gradtool, path), _checked(gradtool, path)]
    for clip in sample["clip"]:
        options = clip.pop("options")
        known.append({**clip, "written": clip["exit_code"] == 0})
        found.append(_clipped(gradtool, path, options))
    print(f"{name:40}", " | ".join(map(_shown, found)))
    problems = [
        f"    {field}: {got.get(field)}, not {value}"
        for got, expected in zip(found, known, strict=True)
        for field, value in expected.items()
        if not _same(got.get(field), value)
    ]
    print("\n".join(problems), end="\n" if problems else "")
    return not problems


def _inspected(gradtool: str, path: str) -> Facts:
    run = subprocess.run(
        [gradtool, "inspect", path, "-f", "json"], capture_output=True, check=False
    )
    total = json.loads(run.stdout)["reports"][0]["total"] if run.returncode == 0 else None
    return {"exit_code": run.returncode, "norm": total and total["norm"]}


def _checked(gradtool: str, path: str) -> Facts:
    command = [gradtool, "check", path, "--isolated", "-f", "json"]
    run = subprocess.run(command, capture_output=True, check=False)
    findings = json.loads(run.stdout)["dumps"][0]["findings"]
    errors = [[one["code"], one["tensor"]] for one in findings if one["severity"] == "error"]
    return {"exit_code": run.returncode, "errors": errors}


def _clipped(gradtool: str, path: str, options: list[str]) -> Facts:
    with tempfile.TemporaryDirectory() as folder:
        command = [gradtool, "clip", path, *options, "-o", f"{folder}/clipped", "-f", "json"]
        run = subprocess.run(command, capture_output=True, check=False)
        written = Path(folder, "clipped").exists()
    report = json.loads(run.stdout) if run.returncode == 0 else {}
    return {**report, "exit_code": run.returncode, "written": written}


def _shown(facts: Facts) -> str:
    """`exit 0, 0.566`, for a clip `exit 0, 0.566 -> 0.1`, for a check `exit 1, GT101`."""
    if "errors" in facts:
        codes = ", ".join(code for code, _ in facts["errors"])
        return f"exit {facts['exit_code']}, {codes or 'no errors'}"
    norms = (facts.get(field) for field in ("norm", "norm_before", "norm_after"))
    shown = " -> ".join(_short(norm) for norm in norms if norm is not None)
    return f"exit {facts['exit_code']}" + (f", {shown}" if shown else "")


def _short(value: float | str | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _same(found: float | str | None, expected: float | str | None) -> bool:
    if isinstance(found, float) and isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=1e-12)
    return found == expected


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
