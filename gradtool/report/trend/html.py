"""Trends as a page: what is to be said first, the norms as a line, and step by step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gradtool.core.figures import counted
from gradtool.core.trends.trend import Run, Trend
from gradtool.report import page
from gradtool.report.escaping import brief
from gradtool.report.model import Style, TrendReport
from gradtool.report.trend.picture import picture
from gradtool.report.trend.words import (
    chosen,
    conclusions,
    findings,
    followed,
    parts_grid,
    remarks,
    sentence,
    steps_grid,
    verb,
)

_ALL: Final = "gradtool trend RUN -f csv lists every one"


def render(report: TrendReport, style: Style) -> str:
    """The page; `show_all` lists every finding, however many there are."""
    trend = report.trend
    return page.page(_title(trend), _parts(trend, style))


def _title(trend: Trend) -> str:
    if len(trend.runs) == 1:
        return sentence(trend.runs[0])
    failed = sum(step.verdict.failed for step in trend.steps)
    steps = counted(len(trend.steps), "step")
    state = f"{failed:,} failed" if failed else "ok"
    return f"{counted(len(trend.runs), 'run')}, {steps}: {state}"


def _parts(trend: Trend, style: Style) -> Iterator[str]:
    for run in trend.runs:
        of = f" of {brief(run.name)}" if trend.runs[1:] else ""
        if of:
            yield page.heading(sentence(run))
        yield page.listing(conclusions(run, style))
        yield picture(trend, run)
        if not style.quiet:
            yield from _tables(trend, run, of)
        told = list(findings(run, style))
        if told:
            yield page.heading(f"Findings{of}")
            yield page.listing(told)
        if not style.quiet:
            yield page.labelled(remarks(run))
    yield page.labelled(("note", brief(note)) for note in trend.notes)


def _tables(trend: Trend, run: Run, of: str) -> Iterator[str]:
    steps = chosen(run, page.MOST_ROWS)
    yield page.table(f"Steps{of}", steps_grid(trend, steps))
    yield from _left_out(len(run.steps) - len(steps), "step")
    for header in ("group", "tensor"):
        parts = followed(run, header)
        if parts:
            grid = parts_grid(run, header, parts[: page.MOST_ROWS])
            yield page.table(f"{header.capitalize()}s{of}", grid)
            yield from _left_out(len(parts) - page.MOST_ROWS, header)


def _left_out(count: int, what: str) -> Iterator[str]:
    if count > 0:
        are = f"{counted(count, f'more {what}')} {verb(count)}"
        yield page.paragraph(f"{are} not listed here: {_ALL}.")
