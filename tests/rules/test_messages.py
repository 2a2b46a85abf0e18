"""What findings say in words: the figures, the tensor and where to look, and nothing untrue."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dumps import write_safetensors
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import gradtool
from gradtool.core.figures import precise
from gradtool.core.judging.verdict import Finding
from gradtool.core.tensors import Skipped
from gradtool.rules.evidence import Evidence
from gradtool.rules.judge import Judge
from gradtool.rules.resolve import resolve
from gradtool.rules.settings import Settings

SMALL = {"GT203.min_norm": 0, "GT203.max_norm": math.inf}


def of_norm(norm: float) -> NDArray[np.float64]:
    return np.array([norm, 0.0])


def said(code: str, source: Any, **options: Any) -> Finding:
    findings = gradtool.check(source, thresholds=SMALL, **options).all_findings
    (found,) = [one for one in findings if one.code == code]
    return found


@pytest.mark.parametrize(("dtype", "bits"), [("F8_E8M0", 8), ("F4", 4), ("F6_E2M3", 6)])
def test_what_is_not_measured_is_told_with_its_type_and_the_reason(
    dtype: str, bits: int, tmp_path: Path
) -> None:
    numel = 8
    tensors = {"w": ("F32", np.ones(2, np.float32)), "scale": (dtype, np.zeros(bits, np.uint8))}
    path = write_safetensors(tmp_path / "x.safetensors", tensors)
    path.write_bytes(path.read_bytes().replace(b'"shape": [%d]' % bits, b'"shape": [%d]' % numel))
    (skipped,) = gradtool.measure(path).skipped
    finding = said("GT004", path)
    assert finding.tensor == "scale"
    assert finding.message.startswith("is not measured")
    assert f"({skipped.reason}, {dtype})" in finding.message


@pytest.mark.parametrize(
    ("dtype", "told"), [("", "(sparse)"), ("torch.bits8", "(sparse, torch.bits8)")]
)
def test_of_what_has_no_type_none_is_told(dtype: str, told: str) -> None:
    measurement = gradtool.measure({"w": of_norm(1.0)})
    measurement = replace(measurement, skipped=(Skipped("s", dtype, "sparse"),))
    policy = resolve(Settings(), Settings(), has_baseline=False)
    (message,) = [
        one.message
        for one in Judge(policy).findings(Evidence(measurement, False))
        if one.code == "GT004"
    ]
    assert message.endswith(told)


@pytest.mark.parametrize("layers", [4, 5, 8])
@pytest.mark.parametrize("norm", [1e4, 1e-4])
def test_the_layers_next_to_an_outlier_are_named_where_they_are_sound(
    layers: int, norm: float
) -> None:
    for odd in range(layers):
        tree = {f"layers.{n}.w": of_norm(norm if n == odd else 1.0) for n in range(layers)}
        finding = said("GT302", tree)
        assert finding.tensor == f"layers.{odd}.w"
        assert precise(norm) in finding.message
        assert ("above" if norm > 1 else "below") in finding.message
        assert f"1 of 1 tensor of 'layers.{odd}' stand out" in finding.message
        neighbours = [n for n in (odd - 1, odd + 1) if 0 <= n < layers]
        if norm < 1 and odd > 0:  # what comes before a layer makes it small
            neighbours = [odd - 1]
            assert "may give out too much" in finding.message
        named = set(re.findall(r"'layers\.(\d+)'", finding.message)) - {str(odd)}
        assert named == {str(n) for n in neighbours}
        number = "is" if len(neighbours) == 1 else "are"
        assert re.search(rf"' (before it )?{number} sound", finding.message)


def outliers(tree: dict[str, NDArray[np.float64]]) -> dict[str | None, str]:
    found = gradtool.check(tree, thresholds=SMALL).all_findings
    return {each.tensor: each.message for one in found for each in one.each if one.code == "GT302"}


def test_a_layer_next_to_an_outlier_that_stands_out_as_well_is_not_called_sound() -> None:
    tree = {f"layers.{n}.w": of_norm(1e4 if n in (3, 4) else 1.0) for n in range(12)}
    messages = outliers(tree)
    assert messages.keys() == {"layers.3.w", "layers.4.w"}
    assert "next to it, 'layers.2' is sound" in messages["layers.3.w"]
    assert "next to it, 'layers.5' is sound" in messages["layers.4.w"]
    assert "sound" not in outliers(tree | {"layers.2.w": of_norm(1e4)})["layers.3.w"]


def baseline_of(tmp_path: Path, norm: float) -> str:
    path = write_safetensors(tmp_path / "known.safetensors", {"w": ("F64", of_norm(norm))})
    gradtool.save_baseline(path, tmp_path / "b.json", force=True)
    return str(tmp_path / "b.json")


@given(factor=st.floats(2.5, 1e4), upwards=st.booleans())
def test_how_far_a_norm_has_drifted_is_told_with_both_norms(
    factor: float, *, upwards: bool, scratch: Path
) -> None:
    norm = 3.0 * factor if upwards else 3.0 / factor
    known = baseline_of(scratch, 3.0)
    thresholds = {**SMALL, "GT402.max_factor": 2.0, "GT403.max_factor": 2.0}
    outcome = gradtool.check({"w": of_norm(norm)}, baseline=known, thresholds=thresholds)
    found = {one.code: one for one in outcome.all_findings}
    for code, subject in (("GT402", "the total norm"), ("GT403", "its norm")):
        message = found[code].message
        assert message.startswith(f"{subject}, {precise(norm)}, is not the baseline's 3, ")
        (times,) = re.findall(r", ([0-9.]+) times it(?:: .*\?)?$", message)
        assert float(times) == pytest.approx(norm / 3.0, rel=1e-4)
        assert found[code].value == pytest.approx(factor)


@given(factor=st.floats(1.001, 1.9).filter(lambda factor: abs(factor**2 % 1 - 0.5) < 0.49))
def test_small_distances_are_told_in_percent(factor: float, scratch: Path) -> None:
    """But for those near the root of a whole number, which may be one of ranks."""
    known = baseline_of(scratch, 3.0)
    finding = said(
        "GT402", {"w": of_norm(3.0 * factor)}, baseline=known, rtol=0.0001, ignore=["GT403"]
    )
    (percent,) = re.findall(r", ([0-9.]+)% off$", finding.message)
    assert float(percent) == pytest.approx(100 * (factor - 1), rel=0.01)


@pytest.mark.parametrize("norm", [0.0, math.nan])
def test_no_distance_is_told_of_what_is_infinitely_far_off(norm: float, tmp_path: Path) -> None:
    known = baseline_of(tmp_path, 3.0)
    finding = said("GT402", {"w": of_norm(norm)}, baseline=known, ignore=["GT1", "GT403"])
    assert finding.message.endswith("is not the baseline's 3")
    assert precise(norm) in finding.message
