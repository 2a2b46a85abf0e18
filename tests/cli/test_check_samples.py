"""`gradtool check` on sample_ckpts: every healthy dump is quiet, every sick one is loud."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from command_line import error_lines, run

SAMPLES = Path(__file__).resolve().parents[2] / "sample_ckpts"
EXPECTED: dict[str, dict[str, Any]] = json.loads((SAMPLES / "expected.json").read_text())[
    "checkpoints"
]

HEALTHY = [
    "healthy.safetensors",
    "healthy_bf16.safetensors",
    "healthy.pt",
    "healthy_bf16.pt",
    "healthy_f64.pt",
    "healthy.npz",
    "healthy_compressed.npz",
    "healthy.npy",
    "sharded",
    "sharded/grads.safetensors.index.json",
    "sharded_bin",
    "sharded_bin/grads.bin.index.json",
    "tied.pt",
    "training.pt",
]
NONFINITE = {("GT101", "layers.1.up.weight"), ("GT102", "layers.1.up.gain")}
SICK: dict[str, tuple[int, set[tuple[str, str | None]]]] = {
    "nonfinite.safetensors": (1, {*NONFINITE}),
    "nonfinite.pt": (1, {*NONFINITE}),
    "overflow_f16.safetensors": (1, {("GT201", None)}),
    "exploded.safetensors": (1, {("GT203", None)}),
    "empty.safetensors": (3, {("GT002", None)}),
    "empty.pt": (3, {("GT002", None)}),
    "truncated.safetensors": (3, {("GT001", None)}),
    "truncated.pt": (3, {("GT001", None)}),
}
"""Exit codes and findings: codes, and tensors where one of them is to blame."""


@cache
def report(name: str, *options: str) -> tuple[int, dict[str, Any], list[str]]:
    """Exit code, report and errors of a check with default rules, in a process of its own."""
    result = run("check", name, "-f", "json", "--isolated", *options, cwd=SAMPLES)
    report = json.loads(result.stdout)
    assert report["exit_code"] == result.returncode
    assert report["config"] is None
    return result.returncode, report, error_lines(result)


def findings(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [*report["findings"], *(one for dump in report["dumps"] for one in dump["findings"])]


def test_every_sample_has_a_verdict() -> None:
    assert sorted([*HEALTHY, *SICK]) == sorted(EXPECTED)


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_dumps_are_quiet(name: str) -> None:
    exit_code, found, errors = report(name)
    assert (exit_code, findings(found), errors) == (0, [], [])
    assert found["dumps"][0]["verdict"] == "pass"
    assert found["dumps"][0]["total"]["tensors"] > 0


def test_healthy_dumps_are_quiet_together_and_for_who_fails_on_warnings() -> None:
    result = run("check", *HEALTHY, "--isolated", "--fail-on", "warning", "-q", cwd=SAMPLES)
    assert (result.returncode, result.stderr) == (0, "")
    assert "GT" not in result.stdout


@pytest.mark.parametrize("name", SICK)
def test_sick_dumps_are_loud(name: str) -> None:
    exit_code, found, errors = report(name)
    expected_code, expected = SICK[name]
    assert exit_code == expected_code
    assert len(errors) == (1 if expected_code == 3 else 0)
    grave = [one for one in findings(found) if one["severity"] == "error"]
    assert expected <= {(one["code"], tensor) for one in grave for tensor in (one["tensor"], None)}
    assert found["dumps"][0]["verdict"] == "fail"


@pytest.mark.parametrize("name", ["nonfinite.safetensors", "nonfinite.pt", "exploded.safetensors"])
def test_what_is_sick_for_one_reason_is_found_sick_for_no_other(name: str) -> None:
    expected = {code for code, _ in SICK[name][1]}
    assert len(findings(report(name)[1])) == len(expected)
    assert {one["code"] for one in findings(report(name)[1])} == expected


@pytest.mark.parametrize("name", ["nonfinite.safetensors", "nonfinite.pt"])
def test_the_first_bad_element_is_the_known_one(name: str) -> None:
    known = {one["name"]: one for one in EXPECTED[name]["tensors"]}
    for finding in findings(report(name)[1]):
        tensor = known[finding["tensor"]]
        assert finding["index"] == tensor["first_nonfinite"]
        kinds = ("nan",) if finding["code"] == "GT101" else ("posinf", "neginf")
        assert finding["value"] == sum(tensor[kind] for kind in kinds)


def test_norms_out_of_bounds_are_the_known_ones() -> None:
    for name, (_, expected) in SICK.items():
        for finding in findings(report(name)[1]):
            if finding["code"] in {code for code, _ in expected} & {"GT201", "GT203"}:
                known = EXPECTED[name]["total"]["finite_norm"]
                assert finding["value"] == pytest.approx(known, rel=1e-12)


def test_an_overflow_that_only_the_loss_scale_made_is_forgiven_with_it() -> None:
    exit_code, found, _ = report("overflow_f16.safetensors", "--loss-scale", str(2**20))
    assert exit_code == 0
    assert {one["severity"] for one in findings(found)} <= {"warning"}
