"""Rows in reports: a bounded number for people, all of them for programs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from dumps import write_safetensors

import gradtool
from gradtool.report import reporter
from gradtool.report.inspect.arrangement import report_on
from gradtool.report.model import Style

ROWS = 25


@pytest.fixture
def dump(tmp_path: Path) -> str:
    """Row i of `w` holds i + 1; of `sick`, its reverse, rows 3 and 20 are not finite."""
    w = np.repeat(np.arange(1.0, ROWS + 1)[:, None], 4, axis=1)
    sick = w[::-1].copy()
    sick[20, 1] = math.nan
    sick[3, 2] = -math.inf
    tensors = {name: ("F64", array) for name, array in (("sick", sick), ("w", w))}
    tensors["bias"] = ("F64", np.ones(3))
    return str(write_safetensors(tmp_path / "g.safetensors", tensors))


def rows_in(text: str) -> list[int]:
    return [
        int(line.replace("|", " ").replace("`", " ").split()[1])
        for line in text.splitlines()
        if line.lstrip("| `").startswith("row ")
        and line.replace("|", " ").replace("`", " ").split()[1].isdigit()
    ]


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_people_see_the_largest_ten_unless_they_ask_for_all(dump: str, form: str) -> None:
    largest = list(range(ROWS))[::-1]
    shown = run("inspect", dump, "--rows", "w", "-f", form)
    assert (shown.returncode, rows_in(shown.stdout)) == (0, largest[:10])
    assert "15 more rows" in shown.stdout
    assert rows_in(run("inspect", dump, "--rows", "w", "-f", form, "--all").stdout) == largest
    assert (
        rows_in(run("inspect", dump, "--rows", "w", "-f", form, "--top", "3").stdout)
        == (largest[:3])
    )
    assert rows_in(run("inspect", dump, "--rows", "w", "-f", form, "-q").stdout) == []
    assert rows_in(run("inspect", dump, "-f", form).stdout) == []


def test_no_line_is_longer_than_the_terminal_is_wide(tmp_path: Path) -> None:
    name = "transformer.h.0.attention.query_key_value.weight"
    tensors = {name: ("F32", np.arange(40, dtype=np.float32).reshape(20, 2))}
    measured = gradtool.measure(write_safetensors(tmp_path / "g.safetensors", tensors), rows="*")
    for width in (50, 80, 200):
        text = reporter("table")([report_on(measured)], Style(width=width))
        assert max(map(len, text.splitlines()[2:])) <= width


def test_the_first_of_many_tensors_are_no_long_report_on_what_is_not_finite(tmp_path: Path) -> None:
    tensors = {f"layers.{at}.w": ("F32", np.full(3, np.nan, np.float32)) for at in range(30)}
    tensors |= {f"step{at}": ("I64", np.ones(1, np.int64)) for at in range(9)}
    dump = str(write_safetensors(tmp_path / "g.safetensors", tensors))
    whole, first = (run("inspect", dump, *top).stdout for top in ((), ("--top", "2")))
    below = [text.partition("total")[2] for text in (whole, first)]
    assert below[0] == below[1] != ""
    assert "… 22 more" in below[0]
    assert "and 6 more" in below[0]
    assert run("inspect", dump, "-g", "layers.#", "--top", "2").stdout.count("layers.1.w") == 2


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_rows_that_are_not_finite_come_first_and_are_counted(dump: str, form: str) -> None:
    shown = run("inspect", dump, "--rows", "sick", "-f", form).stdout
    assert "2 of 25 rows are not finite" in shown
    assert rows_in(shown)[:4] == [20, 3, 0, 1]


def test_programs_get_all_rows_of_all_that_matched(dump: str) -> None:
    (report,) = json.loads(run("inspect", dump, "--rows", "*", "-f", "json").stdout)["reports"]
    by_tensor = {
        name: [row for row in report["rows"] if row["tensor"] == name] for name in ("w", "sick")
    }
    assert len(report["rows"]) == 2 * ROWS  # of the bias, which has one axis, none
    assert [row["index"] for row in by_tensor["w"]] == list(range(ROWS))[::-1]
    assert [row["norm"] for row in by_tensor["w"]] == [2.0 * n for n in range(ROWS, 0, -1)]
    squares = sum(n * n for n in range(1, ROWS + 1))
    assert by_tensor["w"][0]["share"] == pytest.approx(ROWS * ROWS / squares, rel=1e-12)
    assert sum(row["share"] for row in by_tensor["w"]) == pytest.approx(1.0)
    nan, inf = by_tensor["sick"][:2]
    assert (nan["index"], nan["norm"], nan["nan"], nan["first_nonfinite"]) == (
        20,
        "NaN",
        1,
        [20, 1],
    )
    assert (inf["index"], inf["norm"], inf["neginf"]) == (3, "Infinity", 1)
    (report,) = json.loads(run("inspect", dump, "-f", "json").stdout)["reports"]
    assert report["rows"] == []


def test_a_glob_that_matches_nothing_with_rows_is_wrong_usage(dump: str) -> None:
    refused = run("inspect", dump, "--rows", "bias")
    assert refused.returncode == 2
    assert "--rows 'bias' matches no tensor with two axes or more" in refused.stderr
