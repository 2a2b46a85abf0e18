"""Pages of trends: the line is that of the norms, marks have a shape of their own for each kind."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from reports.parsers import Page
from reports.samples import Figures, finding, outcome_of, policy_of, unreadable

from gradtool.core.trends.steps import Step
from gradtool.core.trends.trend import Conclusion, Run, Trend
from gradtool.report import trend_reporter
from gradtool.report.model import Style, TrendReport
from gradtool.report.page import MOST_ROWS

EVIL = "</title></svg><script src='http://x'>alert(1)</script>"


def step(norm: float, number: int | None, *severities: str, path: str = "a.pt") -> Step:
    """A step of that norm, with a finding of each severity."""
    figures = Figures(norm * norm, norm) if math.isfinite(norm) else Figures(nan=1)
    found = [finding("GT210", None, one) for one in severities]  # type: ignore[arg-type]
    (verdict,) = outcome_of([(path, found)], figures=figures).verdicts
    return Step(replace(verdict, step=number))


def page_of(*runs: Sequence[Step], **style: bool) -> tuple[str, Page]:
    made = [Run(f"run{at}", tuple(steps)) for at, steps in enumerate(runs)]
    trend = Trend(tuple(made), policy_of())
    text = trend_reporter("html")(TrendReport(trend), Style(**style))
    return text, Page(text)


def points(text: str) -> list[tuple[str, float, float]]:
    """What the line of norms consists of: M or L, and where."""
    (line,) = re.findall(r'<path class="norm" d="([^"]*)"/>', text)
    found = re.findall(r"([ML])([\d.]+) ([\d.]+)", line)
    assert "".join(f"{kind}{x} {y}{'h0' * (kind == 'M')}" for kind, x, y in found) == line
    return [(kind, float(x), float(y)) for kind, x, y in found]


def test_the_same_factor_is_the_same_height_and_the_same_number_of_steps_the_same_width() -> None:
    text, _ = page_of([step(10.0**at, 100 + 10 * at) for at in (-3, -2, 0, 1, 4)])
    (first, *others) = points(text)
    assert [kind for kind, _, _ in (first, *others)] == ["M", "L", "L", "L", "L"]
    for (_, x0, y0), (_, x1, y1), decades in zip(
        (first, *others), others, (1, 2, 1, 3), strict=False
    ):
        assert math.isclose(x1 - x0, decades * (others[0][1] - first[1]), abs_tol=0.35)
        assert math.isclose(y0 - y1, decades * (first[2] - others[0][2]), abs_tol=0.35)
        assert y0 > y1  # a larger norm is higher


@pytest.mark.parametrize("norms", [[5e-324, 1.7e308], [2.0, 2.0, 2.0], [1.0, 1.0 + 1e-12]])
def test_norms_of_any_size_are_within_the_picture(norms: list[float]) -> None:
    made = [step(1.0, at) for at in range(len(norms))]
    for at, norm in enumerate(norms):
        total = made[at].total
        assert total is not None
        stats = replace(total.stats, norm_type=math.inf, max_abs=norm)
        told = replace(made[at].verdict, summary=replace(total, stats=stats))
        made[at] = replace(made[at], verdict=told)
        assert told.summary is not None and told.summary.norm == norm
    text, page = page_of(made)
    assert all(0 < x < 720 and 0 < y < 260 for _, x, y in points(text))
    assert "NaN" not in text and page.asked_for == []


def test_the_line_breaks_where_a_step_has_no_norm_to_draw() -> None:
    text, _ = page_of([step(norm, at) for at, norm in enumerate([1.0, 2.0, math.nan, 4.0, 0.0])])
    assert [kind for kind, _, _ in points(text)] == ["M", "L", "M"]


def test_each_kind_of_mark_has_its_shape_and_is_explained_with_its_count() -> None:
    broken = Step(replace(unreadable("a.pt", "is broken"), step=6))
    text, page = page_of(
        [
            *(step(1.0, 1), step(2.0, 2, "warning"), step(9.0, 3, "error", "warning")),
            *(step(math.nan, 4), step(1.0, 5, "warning"), broken),
        ]
    )
    drawn = re.findall(
        r'<path class="(mark [^"]*)" transform="translate\(([\d.]+) [^"]*" d="([^"]*)"', text
    )
    assert len(drawn) == 5
    assert len({shape for _, _, shape in drawn}) == 4
    assert [float(x) for _, x, _ in drawn] == sorted(float(x) for _, x, _ in drawn)
    key = re.findall(r'<li><svg[^>]*><path class="[^"]*" d="([^"]*)"/></svg> ([^<]*)</li>', text)
    assert {shape for shape, _ in key} == {shape for _, _, shape in drawn}
    assert [words for _, words in key] == [
        "1 step not read",
        "1 step not finite",
        "1 step with an error",
        "2 steps with a warning",
    ]
    titles = [block.shown for block in page.blocks if block.tags == ("title",)]
    assert titles[1:] == ["2 GT210", "3 GT210", "4", "5 GT210", "6 GT001"]


def test_conclusions_stand_first_and_no_name_is_markup() -> None:
    steps = (step(1.0, None, path="a.pt"), step(5.0, None, "error", path=EVIL))
    conclusion = Conclusion("spike", f"{EVIL} is large")
    trend = Trend((Run(EVIL, steps, (conclusion,)),), policy_of(), notes=(EVIL,))
    text = trend_reporter("html")(TrendReport(trend), Style())
    page = Page(text)
    assert page.asked_for == [] and "<script" not in text
    shown = [block.shown for block in page.blocks]
    assert "script src" in shown[0]  # the title, and then the heading
    assert shown[2] == f"{EVIL} is large"
    assert sum("alert(1)" in one for one in shown) >= 5


def test_of_many_steps_each_column_keeps_the_least_and_the_largest() -> None:
    count = 3 * MOST_ROWS
    norms = [1.0 + 0.01 * (at % 7) for at in range(count)]
    norms[1320:1322] = [3.0, 50.0]
    text, page = page_of(
        [step(norm, at, *["error"] * (norm > 2.0)) for at, norm in enumerate(norms)]
    )
    line = points(text)
    assert len(line) <= 2 * 700
    assert all(one[1] <= two[1] for one, two in pairwise(line))
    peak = min(y for _, _, y in line)
    assert peak < 40 < sorted(y for _, _, y in line)[1]
    assert re.findall(r'class="mark [^"]*" transform="translate\([\d.]+ ([\d.]+)\)', text) == [
        str(peak)
    ]
    rows = [block for block in page.blocks if block.tags == ("th",) and block.row >= 0]
    assert len(rows) == MOST_ROWS and rows[0].shown == "1320"
    assert f"{count - MOST_ROWS:,} more steps are not listed here" in text
    assert len(text) - len("".join(block.shown for block in page.blocks)) < 400_000


def test_runs_have_a_part_each_and_one_step_has_no_picture() -> None:
    text, page = page_of([step(1.0, 1), step(2.0, 2)], [step(1.0, 1)])
    assert text.count('class="picture"') == 1
    headings = [block.shown for block in page.blocks if block.tags in (("h1",), ("h2",))]
    assert headings == [
        "2 runs, 3 steps: ok",
        *("run0: 2 steps, 1 to 2: ok", "Steps of run0", "run1: 1 step: ok", "Steps of run1"),
    ]
    quiet, _ = page_of([step(1.0, 1), step(2.0, 2, "error")], quiet=True)
    assert "<table>" not in quiet and "error GT210" in quiet
