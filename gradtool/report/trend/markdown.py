"""Trends for job summaries and pull requests: GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from gradtool.core.figures import counted
from gradtool.core.trends.trend import Run, Trend
from gradtool.report.escaping import brief
from gradtool.report.inspect.markdown import escaped, listed, table
from gradtool.report.model import DEFAULT_ROWS, Style, TrendReport
from gradtool.report.trend.words import (
    conclusions,
    findings,
    followed,
    parts_grid,
    remarks,
    sentence,
    shown,
    steps_grid,
    verb,
)


def render(report: TrendReport, style: Style) -> str:
    """A heading, conclusions and tables for each run."""
    trend = report.trend
    texts = ["\n".join(_run(trend, run, style)) + "\n" for run in trend.runs]
    notes = "".join(f"{listed(brief(note))}\n" for note in trend.notes)
    return "\n".join([*texts, *([notes] if notes else [])])


def _run(trend: Trend, run: Run, style: Style) -> Iterator[str]:
    yield f"### {escaped(sentence(run))}"
    yield ""
    yield from map(listed, conclusions(run, style))
    steps = shown(run, style)
    if steps:
        yield ""
        yield from table(steps_grid(trend, steps))
        if left_out := len(run.steps) - len(steps):
            yield ""
            yield f"{counted(left_out, 'more step')} {verb(left_out)} not listed."
    for header in ("group", "tensor"):
        parts = followed(run, header)
        rows = parts if style.show_all else parts[:DEFAULT_ROWS]
        if rows and not style.quiet:
            yield ""
            yield from table(parts_grid(run, header, rows))
            if left_out := len(parts) - len(rows):
                yield ""
                yield f"{counted(left_out, f'more {header}')} {verb(left_out)} not listed."
    yield ""
    yield from map(listed, findings(run, style))
    if not style.quiet:
        yield from (listed(f"{label}: {value}") for label, value in remarks(run))
