"""`gradtool inspect` against the known answers of sample_ckpts/expected.json."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

SAMPLES = Path(__file__).resolve().parents[2] / "sample_ckpts"
EXPECTED: dict[str, dict[str, Any]] = json.loads((SAMPLES / "expected.json").read_text())[
    "checkpoints"
]
READABLE = [name for name, known in EXPECTED.items() if known["exit_code"] == 0]
REFUSED = [name for name, known in EXPECTED.items() if known["exit_code"] != 0]
NORM_TYPES = ["0", "0.5", "1", "2", "3", "inf", "-inf"]
SUMMED = ["tensors", "numel", "nan", "posinf", "neginf", "zeros"]
PER_TENSOR = ["section", "dtype", "shape", "numel", "nan", "posinf", "neginf", "zeros"]


def inspect(names: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    paths = [f"{SAMPLES.name}/{name}" for name in names]
    command = [sys.executable, "-m", "gradtool", "inspect", *paths, "-f", "json", *options]
    return subprocess.run(command, cwd=SAMPLES.parent, capture_output=True, text=True, check=False)


@cache
def reports(p: str) -> dict[str, dict[str, Any]]:
    """The report of every readable sample, by path: one process for each norm type."""
    done = inspect(READABLE, "-p", p, "--quiet", "--no-progress")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["reports"]
    return {report["path"].removeprefix(f"{SAMPLES.name}/"): report for report in found}


def number(value: float | str) -> float:
    return float(value)


def assert_close(got: float | str, expected: float | str) -> None:
    if math.isnan(number(expected)):
        assert math.isnan(number(got))
    else:
        assert number(got) == pytest.approx(number(expected), rel=1e-12, abs=0)


def assert_set(got: dict[str, Any], expected: dict[str, Any]) -> None:
    """Totals of p = 2 over a dump or a section."""
    for field in SUMMED:
        assert got[field] == expected[field], field
    assert_close(got["norm"], expected["norms"]["2"])
    for field in ("finite_norm", "native_norm", "max_abs"):
        assert_close(got[field], expected[field])
    assert got["native_dtype"] == expected["native_dtype"]


@pytest.mark.parametrize("name", READABLE)
def test_totals(name: str) -> None:
    report, known = reports("2")[name], EXPECTED[name]
    assert report["format"] == known["format"]
    if known["total"] is None:
        assert report["total"] is None
    else:
        assert_set(report["total"], known["total"])


@pytest.mark.parametrize("name", [name for name in READABLE if EXPECTED[name]["sections"]])
def test_sections(name: str) -> None:
    sections = {section["name"]: section for section in reports("2")[name]["sections"]}
    for known in EXPECTED[name]["sections"]:
        assert sections[known["name"]]["kind"] == known["kind"]
        assert_set(sections[known["name"]], known)


@pytest.mark.parametrize("name", READABLE)
def test_every_tensor(name: str) -> None:
    report, known = reports("2")[name], EXPECTED[name]
    if [tensor["name"] for tensor in known["tensors"]] == [None]:
        pairs = list(zip(report["tensors"], known["tensors"], strict=True))
    else:
        by_name = {tensor["name"]: tensor for tensor in report["tensors"]}
        assert sorted(by_name) == sorted(tensor["name"] for tensor in known["tensors"])
        pairs = [(by_name[tensor["name"]], tensor) for tensor in known["tensors"]]
    for got, expected in pairs:
        for field in (*PER_TENSOR, "first_nonfinite", "alias_of"):
            assert got[field] == expected[field], (expected["name"], field)
        for field in ("norm", "finite_norm", "native_norm", "max_abs"):
            assert_close(got[field], expected[field])
    skipped = {entry["name"]: entry["dtype"] for entry in report["skipped"]}
    assert skipped == {entry["name"]: entry["dtype"] for entry in known["skipped"]}


@pytest.mark.parametrize("p", NORM_TYPES)
@pytest.mark.parametrize("name", READABLE)
def test_norm_types(name: str, p: str) -> None:
    report, known = reports(p)[name], EXPECTED[name]
    if known["total"] is not None:
        assert_close(report["total"]["norm"], known["total"]["norms"][p])
    sections = {section["name"]: section for section in report["sections"]}
    for section in known["sections"]:
        assert_close(sections[section["name"]]["norm"], section["norms"][p])


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    done = inspect([name])
    assert done.returncode == EXPECTED[name]["exit_code"]
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert name in done.stderr


def test_expected_lists_every_file() -> None:
    ours = {"README.md", "expected.json", "charmodel.py", "make.py", "oracle.py"}
    files = [path for path in SAMPLES.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    listed = {file for known in EXPECTED.values() for file in known["files"]}
    assert {path.relative_to(SAMPLES).as_posix() for path in files} == listed | ours
    assert sum(path.stat().st_size for path in files) <= 10_000_000
