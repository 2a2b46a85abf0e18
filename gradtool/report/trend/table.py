"""Trends for people at a terminal: conclusions, a line for each step, then what was found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gradtool.core.figures import counted, significant
from gradtool.core.judging.verdict import Finding
from gradtool.core.trends.steps import Step
from gradtool.core.trends.trend import Run, Trend
from gradtool.report.check.words import sentence as finding_sentence
from gradtool.report.escaping import brief
from gradtool.report.grid import CELL_DIGITS
from gradtool.report.inspect.table import LABEL_WIDTH, labelled
from gradtool.report.layout import (
    HEADER,
    MOODS,
    NARROWEST_NAME,
    Painter,
    grid_lines,
    paragraph,
    shortened_name,
)
from gradtool.report.model import DEFAULT_ROWS, Style, TrendReport
from gradtool.report.trend.words import (
    alike,
    conclusions,
    followed,
    parts_grid,
    remarks,
    sentence,
    shown,
    sparkline,
    steps_grid,
    title,
)
from gradtool.shortening import LONGEST_LINE

FINDINGS = 5
"""Steps, or sets of them, of which findings are listed without --all."""

_INDENT = "    "


def render(report: TrendReport, style: Style) -> str:
    """The runs one after the other, separated by empty lines."""
    painter = Painter(colour=style.colour)
    trend = report.trend
    texts = ["\n".join(_run(trend, run, style, painter)) + "\n" for run in trend.runs]
    notes = labelled((("note", brief(note)) for note in trend.notes), style, painter)
    return "\n".join(texts) + "".join(f"{line}\n" for line in notes)


def _run(trend: Trend, run: Run, style: Style, painter: Painter) -> Iterator[str]:
    failed = bool(run.findings) or any(step.verdict.failed for step in run.steps)
    mood = MOODS["alarming" if failed else "healthy"]
    yield from (painter.paint(line, mood) for line in paragraph(sentence(run), style.width, "  "))
    for text in conclusions(run, style):
        yield from paragraph(f"- {text}", style.width, "  ")
    yield from _norms(run, style, painter)
    steps = shown(run, style)
    if steps:
        yield ""
        yield from grid_lines(steps_grid(trend, steps), style.width, painter)
        if left_out := len(run.steps) - len(steps):
            yield painter.paint(f"… {left_out:,} more (--all shows them)", MOODS["minor"])
    for header in ("group", "tensor"):
        yield from _parts(run, header, style, painter)
    yield from _findings(run, style, painter)
    if not style.quiet:
        yield from labelled(remarks(run), style, painter)


def _norms(run: Run, style: Style, painter: Painter) -> Iterator[str]:
    """The norms in one line, on a terminal."""
    if not style.bars:
        return
    width = (style.width or 0) - LABEL_WIDTH - 30
    line = sparkline(run, max(width, 10))
    if line:
        finite = [step.total.finite_norm for step in run.steps if step.total is not None]
        low, high = (significant(end, CELL_DIGITS) for end in (min(finite), max(finite)))
        yield from labelled([("norm", f"{line} {low} to {high}")], style, painter)


def _parts(run: Run, header: str, style: Style, painter: Painter) -> Iterator[str]:
    parts = followed(run, header)
    rows = parts if style.show_all else parts[:DEFAULT_ROWS]
    if rows and not style.quiet:
        yield ""
        yield from grid_lines(parts_grid(run, header, rows), style.width, painter)
        if left_out := len(parts) - len(rows):
            yield painter.paint(f"… {left_out:,} more (--all shows them)", MOODS["minor"])


def _findings(run: Run, style: Style, painter: Painter) -> Iterator[str]:
    """What was found in steps, once for all of which the same is said."""
    found = alike(run, style)
    listed = found if style.show_all else found[:FINDINGS]
    if listed or run.findings:
        yield ""
    for finding in run.findings:
        head = f"all steps together: {finding.severity} {finding.code} {finding.name}: "
        said = finding_sentence(_fitted(finding, style), None, LONGEST_LINE - len(head))
        yield from paragraph(f"{head}{said}", style.width, _INDENT)
    for steps in listed:
        yield painter.paint(f"{title(steps)}:", HEADER)
        yield from _of_step(steps[0], style)
    if left_out := sum(map(len, found[len(listed) :])):
        more = counted(left_out, "more step")
        yield painter.paint(f"… {more} with findings (--all shows them)", MOODS["minor"])


def _fitted(finding: Finding, style: Style) -> Finding:
    """A finding, its names short enough to stand in a line with others."""
    if style.width is None or finding.tensor is None:
        return finding
    room = max(style.width // 2, NARROWEST_NAME)
    return replace(finding, tensor=shortened_name(brief(finding.tensor), room))


def _of_step(step: Step, style: Style) -> Iterator[str]:
    findings = step.verdict.findings
    listed = findings if style.show_all else findings[:FINDINGS]
    for finding in listed:
        head = f"  {finding.severity} {finding.code} {finding.name}:"
        room = LONGEST_LINE - len(head) - 1
        said = finding_sentence(_fitted(finding, style), step.verdict, room)
        yield from paragraph(f"{head} {said}", style.width, _INDENT)
    if left_out := len(findings) - len(listed):
        yield f"{_INDENT}… {left_out:,} more (--all)"
