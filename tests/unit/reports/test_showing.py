"""Results look in Python as the command line shows them, and stay small whatever is in a file."""

import csv
import html
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run
from reports.commands import COMMANDS, retold, words_in
from reports.samples import PLAIN, clip_of, finding, measurement_of, outcome_of, tensor, unreadable
from rich.console import Console
from safetensors.numpy import save_file

import gradtool
from gradtool.core.trends.trend import Trend
from gradtool.display import Displayed
from gradtool.report import (
    check_reporter,
    clip_reporter,
    diff_reporter,
    reporter,
    trend_reporter,
)
from gradtool.report.inspect.arrangement import report_on
from gradtool.report.model import Style, TrendReport

SAMPLES = Path(__file__).parents[3] / "sample_ckpts"
SAMPLE = str(SAMPLES / "nonfinite.safetensors")
HEALTHY = str(SAMPLES / "healthy.safetensors")

LONG = "layer." * 100_000
TREND_WORDS = words_in(COMMANDS["trend"].sample())
EVIL = "</pre><script>alert(1)</script>&\x1b[2J\u202e"


def results(name: str = "w") -> list[Displayed]:
    """One of each kind, with a name in every place that takes one."""
    measured = measurement_of(tensor(name, nan=2), tensor(f"{name}2"), path=name)
    checked = outcome_of([(name, [finding("GT101", name), finding("GT203", name)])])
    difference = retold(
        COMMANDS["diff"].sample(), {f"q{word}q": name for word in ("tensor1", "tensor2", "path1")}
    )
    plain = replace(COMMANDS["trend"].sample((PLAIN,) * 3).trend, max_norm=None)
    trend = retold(plain, dict.fromkeys(TREND_WORDS, name))
    return [measured, clip_of(measured, measured, name, name), checked, difference, trend]


def table_of(result: Displayed, width: int) -> str:
    """What the command line prints of a result, without colour and without its options."""
    style = Style(width=width, in_python=True)
    if isinstance(result, gradtool.Measurement):
        return reporter("table")([report_on(result)], style)
    if isinstance(result, gradtool.ClipOutcome):
        return clip_reporter("table")(result, style)
    if isinstance(result, gradtool.Difference):
        return diff_reporter("table")(result, style)
    if isinstance(result, Trend):
        return trend_reporter("table")(TrendReport(result), style)
    assert isinstance(result, gradtool.CheckOutcome)
    return check_reporter("text")(result, style)


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip("\n").split("\n")]


@pytest.mark.parametrize("name", ["w", LONG, EVIL])
def test_a_repr_is_short_whatever_the_names(name: str) -> None:
    of_parts = (tensor(name), finding("GT101", name, message=name), unreadable(name, name))
    shown = results(name)
    assert isinstance(shown[-2], gradtool.Difference)
    for value in (*shown, *of_parts, *shown[-2].tensors):
        assert len(repr(value)) < 400
        assert repr(value).isprintable()
        assert type(value).__name__ in repr(value)


@pytest.mark.parametrize("name", ["w", LONG, EVIL])
def test_a_sum_has_a_short_repr_too(name: str) -> None:
    (section,) = measurement_of(tensor("w", nan=2), path="g").sections
    for value in (section, replace(section, name=name)):
        assert len(repr(value)) < 400
        assert repr(value).isprintable()
        assert "1 tensor, norm" in repr(value)


@pytest.mark.parametrize(("count", "words"), [(1, "1 dump"), (2, "2 dumps")])
def test_a_repr_counts_as_people_do(count: int, words: str) -> None:
    dumps = [(f"g{at}", []) for at in range(count)]
    assert f"<CheckOutcome {words} passed>" == repr(outcome_of(dumps))
    failed = outcome_of([(path, [finding("GT101", "w")]) for path, _ in dumps])
    assert f"{count} of {words} failed" in repr(failed)
    tensors = [tensor(f"w{at}") for at in range(count)]
    assert f": {count} tensor{'s' * (count > 1)}, " in repr(measurement_of(*tensors, path="g"))


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("which", range(5))
def test_rich_prints_the_table_of_the_command_line(which: int, width: int) -> None:
    result = results()[which]
    plain = Console(file=io.StringIO(), width=width)
    plain.print(result)
    assert lines(plain.file.getvalue()) == lines(table_of(result, width))  # type: ignore[attr-defined]


@pytest.mark.parametrize("which", range(5))
def test_a_notebook_shows_the_same_table(which: int) -> None:
    result = results()[which]
    text = html.unescape(re.sub(r"</?(pre|span)[^>]*>", "", result._repr_html_()))
    assert lines(text) == lines(table_of(result, 100))


@pytest.mark.parametrize("which", range(5))
def test_no_name_is_markup_in_a_notebook(which: int) -> None:
    shown = results(EVIL)[which]._repr_html_()
    assert set(re.findall(r"<[^ >]*", shown)) <= {"<pre", "</pre", "<span", "</span"}
    assert shown.count("</pre>") == 1
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_a_notebook_stays_small_however_much_there_is() -> None:
    many = measurement_of(*(tensor(f"{n}.{LONG[:300]}", nan=n % 2) for n in range(2_000)))
    assert len(many._repr_html_()) < 60_000


def shown_in_python(result: Displayed) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    console.print(result)
    notebook = html.unescape(re.sub(r"<[^>]*>", "", result._repr_html_()))
    return [console.file.getvalue(), notebook]  # type: ignore[attr-defined]


def test_what_python_shows_has_no_words_of_the_command_line(tmp_path: Path) -> None:
    rows = np.ones((60, 2), np.float32)
    run_of_nan = {f"layers.{at}.w": np.full(2, np.nan, np.float32) for at in range(50)}
    spread = {f"h.{at}.w": np.array([np.inf if at % 2 else 1.0]) for at in range(60)}
    save_file({"embed": rows, **run_of_nan, "z": rows}, tmp_path / "g.safetensors")
    np.savez(tmp_path / "spread.npz", **spread)
    some = measurement_of(*(tensor(f"{at}.w", nan=1) for at in range(50)))
    checked = outcome_of([("g", [finding("GT201", f"{at}.w") for at in range(20)])])
    shown: list[Displayed] = [
        gradtool.measure(tmp_path / "g.safetensors", rows="*"),
        gradtool.measure(tmp_path / "spread.npz"),
        gradtool.measure(SAMPLES / "training.pt"),
        gradtool.clip(
            tmp_path / "g.safetensors", tmp_path / "out", per_tensor=True, max_norm=0.1,
            nonfinite="keep",
        ),
        some,
        checked,
        gradtool.check(tmp_path / "g.safetensors"),
    ]  # fmt: skip
    for result in shown:
        for text in shown_in_python(result):
            assert not re.search(r"--\w|gradtool \w+ ", text), text
    for text in shown_in_python(shown[0]):
        assert "… 12 more (to_rows() has all)" in text
        assert "… 50 more rows\n" in text.replace(" \n", "\n")
    for text in shown_in_python(shown[2]):
        assert "choose one with `section`" in text


def test_fields_are_what_the_command_line_prints_as_json() -> None:
    def told(document: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in document.items() if key != "elapsed_s"}

    inspected = json.loads(run("inspect", SAMPLE, "-f", "json").stdout)
    (report,) = inspected.pop("reports")
    assert told(gradtool.measure(SAMPLE).to_dict()) == told({**inspected, **report})
    plan = {"max_norm": 0.1, "nonfinite": "zero", "dry_run": True}
    clipped = run("clip", SAMPLE, "--max-norm=0.1", "--nonfinite=zero", "--dry-run", "-f", "json")
    assert told(gradtool.clip(SAMPLE, None, **plan).to_dict()) == told(json.loads(clipped.stdout))
    checked = json.loads(run("check", SAMPLE, "--isolated", "-f", "json").stdout)
    found = gradtool.check(SAMPLE).to_dict()
    for document in (found, checked):
        document["dumps"] = [told(dump) for dump in document["dumps"]]
    assert told(found) == told(checked)
    compared = json.loads(run("diff", SAMPLE, HEALTHY, "-f", "json").stdout)
    assert told(gradtool.diff(SAMPLE, HEALTHY).to_dict()) == told(compared)


def test_rows_are_those_of_csv_with_numbers_in_them() -> None:
    rows = gradtool.measure(SAMPLE).to_rows()
    out = run("inspect", SAMPLE, "-f", "csv", "--sort", "file").stdout
    *listed, total = csv.DictReader(io.StringIO(out))
    assert total["name"] == "(total)"
    assert_the_same(rows, listed)
    assert any(math.isnan(row["norm"]) for row in rows)
    rows = gradtool.diff(SAMPLE, HEALTHY).to_rows()
    compared = run("diff", SAMPLE, HEALTHY, "-f", "csv").stdout
    assert_the_same(rows, [*csv.DictReader(io.StringIO(compared))])


def assert_the_same(rows: list[dict[str, Any]], listed: list[dict[str, Any]]) -> None:
    """Rows of Python's values are those that CSV spells."""
    assert len(rows) == len(listed) > 0
    for row, cells in zip(rows, listed, strict=True):
        assert row.keys() == cells.keys()
        for column, value in row.items():
            if isinstance(value, float):
                number = float(cells[column])
                assert value == number or (math.isnan(value) and math.isnan(number))
            else:
                word = str(value).lower() if isinstance(value, bool) else str(value)
                assert cells[column] == ("" if value is None else word)


def test_rows_are_in_the_order_of_the_table(tmp_path: Path) -> None:
    names = [f"layers.{at}.w" for at in range(12)]
    save_file({name: np.ones(2, np.float32) for name in names}, tmp_path / "g.safetensors")
    measured = gradtool.measure(tmp_path / "g.safetensors")
    assert [row["name"] for row in measured.to_rows()] == names
    assert [row["name"] for row in measured.to_dict()["tensors"]] == names
    clipped = gradtool.clip(tmp_path / "g.safetensors", max_norm=1, dry_run=True)
    assert [row["name"] for row in clipped.to_rows()] == names


@pytest.mark.parametrize("which", range(5))
def test_rows_are_flat_and_alike(which: int) -> None:
    rows = results()[which].to_rows()
    assert rows
    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    plain = str | int | float | None
    assert all(isinstance(value, plain) for row in rows for value in row.values())


def test_rows_of_a_clip_have_each_tensor_s_factor(tmp_path: Path) -> None:
    save_file({"a": np.full(4, 2.0), "b": np.full(1, 0.5), "c": np.zeros(2)}, tmp_path / "g.st")
    out = gradtool.clip(
        tmp_path / "g.st", tmp_path / "out.st", max_norm=1.0, eps=0, per_tensor=True
    )
    rows = {row["name"]: row for row in out.to_rows()}
    assert {name: row["clip_coef"] for name, row in rows.items()} == {"a": 0.25, "b": 1.0, "c": 1.0}
    assert {name: row["norm_after"] for name, row in rows.items()} == {"a": 1.0, "b": 0.5, "c": 0.0}
    assert [name for name, row in rows.items() if row["changed"]] == ["a"]


def test_a_tensor_is_found_by_its_name() -> None:
    measurement = gradtool.measure(SAMPLE)
    for one in measurement.tensors:
        assert measurement[one.name] is one
        assert one.name in measurement
    assert "layers" not in measurement
    with pytest.raises(KeyError, match=r"layers\.1\.up\.weight"):
        _ = measurement["layers.1.up.weigth"]
    with pytest.raises(TypeError):
        iter(measurement)  # type: ignore[call-overload]


def test_a_pair_is_found_by_its_name() -> None:
    difference = gradtool.diff(SAMPLE, SAMPLE)
    for one in difference.tensors:
        assert difference[one.name] is one
        assert one.name in difference
    assert "layers" not in difference
    with pytest.raises(KeyError, match=r"layers\.1\.up\.weight"):
        _ = difference["layers.1.up.weigth"]
    with pytest.raises(TypeError):
        iter(difference)  # type: ignore[call-overload]
    assert difference and not gradtool.diff(SAMPLE, HEALTHY)


@pytest.mark.parametrize("name", ["healthy.pt", "nonfinite.pt", "truncated.pt", "empty.pt"])
def test_what_passed_is_true(name: str) -> None:
    outcome = gradtool.check(SAMPLES / name)
    assert bool(outcome) == (outcome.exit_code == 0) == (name == "healthy.pt")
    assert [bool(verdict) for verdict in outcome.verdicts] == [name == "healthy.pt"]
