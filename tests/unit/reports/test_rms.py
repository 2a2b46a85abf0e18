"""The root mean square: norm / sqrt(numel) of tensors, groups, sections and in total."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from dumps import write_safetensors

import gradtool


@pytest.fixture
def dump(tmp_path: Path) -> str:
    """Elements 3 and 4, RMS sqrt(12.5), four of 5; together sqrt(125 / 6); and none at all."""
    tensors = {
        "a.w": ("F32", np.array([3, 4], np.float32)),
        "a.v": ("F32", np.full((2, 2), 5, np.float32)),
        "b": ("F32", np.zeros((0, 3), np.float32)),
    }
    return str(write_safetensors(tmp_path / "g.safetensors", tensors))


def test_in_json(dump: str) -> None:
    (report,) = json.loads(run("inspect", dump, "-g", "1", "-f", "json").stdout)["reports"]
    rms = {tensor["name"]: tensor["rms"] for tensor in report["tensors"]}
    assert rms == {"a.w": pytest.approx(math.sqrt(12.5)), "a.v": 5.0, "b": None}
    assert report["total"]["rms"] == pytest.approx(math.sqrt(125 / 6))
    assert report["sections"][0]["rms"] == report["total"]["rms"]
    assert {group["name"]: group["rms"] for group in report["groups"]} == {
        "a": report["total"]["rms"],
        "b": None,
    }


def test_in_csv(dump: str) -> None:
    rows = csv.DictReader(io.StringIO(run("inspect", dump, "-f", "csv").stdout))
    assert {row["name"]: row["rms"] for row in rows} == {
        "a.w": repr(math.sqrt(25.0) / math.sqrt(2)),
        "a.v": "5.0",
        "b": "",
        "(total)": repr(math.sqrt(125.0) / math.sqrt(6)),
    }


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_people_see_it_where_they_ask(dump: str, form: str) -> None:
    plain = run("inspect", dump, "-g", "1", "--all", "-f", form).stdout
    asked = run("inspect", dump, "-g", "1", "--all", "-f", form, "--rms").stdout
    assert "RMS" not in plain
    assert asked.count("RMS") == 3  # of tensors, of groups, in total
    for text in ("3.5355", "4.5644", f"{math.sqrt(125 / 6):.12g}"):
        assert text in asked
        assert text not in plain


def test_what_is_not_finite_makes_it_so_and_other_norms_have_none(tmp_path: Path) -> None:
    bad = gradtool.measure({"x": np.array([1.0, math.inf]), "y": np.array([math.nan])})
    assert bad.tensors[0].rms == math.inf
    assert math.isnan(bad.tensors[1].rms or 0.0)
    assert gradtool.measure({"x": np.ones(2)}, norm_type=1).tensors[0].rms is None
    path = write_safetensors(tmp_path / "x.safetensors", {"x": ("F64", np.ones(2))})
    refused = run("inspect", str(path), "--rms", "-p", "1")
    assert refused.returncode == 2
    assert "--rms needs --norm-type 2" in refused.stderr
