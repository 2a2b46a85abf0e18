"""Reports for pull requests and job summaries: GitHub's Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from gradtool.core.figures import counted
from gradtool.core.measurement import TensorMeasurement
from gradtool.core.order.brackets import brackets
from gradtool.report.escaping import brief
from gradtool.report.grid import Grid, group_grid, section_grid, tensor_grid
from gradtool.report.inspect.rows import row_grid, row_heading, shown_rows
from gradtool.report.model import InspectReport, Style
from gradtool.report.words import (
    diagnoses,
    frontiers,
    holdings,
    nonfinite_elements,
    nonfinite_heading,
    origin,
    skipped_summary,
    totals,
)

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&@])")
_BEGINS_A_BLOCK = re.compile(r"^(\d+(?=[.)])|(?=[-+]))")
# Text that shows unchanged between backticks; a pipe does not in a table.
_FIT_FOR_BACKTICKS = re.compile(r"[^`|\s]([^`|]*[^`|\s])?")


def render(reports: Sequence[InspectReport], style: Style) -> str:
    """A heading, tables and lists for each report."""
    return "\n".join("\n".join(_lines(report, style)) + "\n" for report in reports)


def escaped(text: str) -> str:
    """`text` as Markdown in which nothing is emphasis, HTML or the end of a table's cell.

    GitHub still makes links of addresses and mentions; names are written by `code`.
    """
    return _SPECIAL.sub(r"\\\1", text)


def listed(text: str) -> str:
    """An item of a list that shows `text`, and in which no other list or rule begins."""
    return "- " + _BEGINS_A_BLOCK.sub(r"\1\\", escaped(text.lstrip()))


def code(text: str) -> str:
    """`text` as Markdown code, shown exactly as it is."""
    if _FIT_FOR_BACKTICKS.fullmatch(text):
        return f"`{text}`"
    literal = "".join(char if char.isalnum() else f"&#{ord(char)};" for char in text)
    return f"<code>{literal}</code>"


def _lines(report: InspectReport, style: Style) -> Iterator[str]:
    measurement = report.measurement
    yield f"### {code(brief(measurement.path))}"
    yield ""
    order = f", in {report.order}" if report.order else ""
    yield escaped(f"{origin(measurement)}: {holdings(measurement)}{order}")
    yield ""
    yield from (
        f"- **{escaped(label)}**: {escaped(value)}" for label, value in totals(report, style)
    )
    yield from (f"- ⚠ {escaped(text)}" for text in diagnoses(measurement))
    yield from _remarks(report, style)
    for grid in _grids(report, style):
        yield ""
        yield from table(grid)
    if (shown := style.shown(report)) and len(shown) < len(measurement.tensors):
        yield ""
        left_out = len(measurement.tensors) - len(shown)
        yield f"{counted(left_out, 'more tensor')} {'is' if left_out == 1 else 'are'} not listed."
    for by_row in () if style.quiet else report.by_row:
        yield ""
        yield escaped(row_heading(by_row))
        yield ""
        yield from table(row_grid(report, by_row, style))
        if left_out := len(by_row.rows) - len(shown_rows(report, by_row, style)):
            yield ""
            yield f"{counted(left_out, 'more row')} {'is' if left_out == 1 else 'are'} not listed."
    yield from _nonfinite(report)


def _remarks(report: InspectReport, style: Style) -> Iterator[str]:
    measurement = report.measurement
    skipped = () if style.quiet else measurement.skipped
    for line in skipped_summary(skipped, show_all=style.show_all):
        yield f"- skipped {code(line)}"
    said = measurement.essential_notes if style.quiet else measurement.notes
    yield from (listed(brief(note)) for note in said)


def _grids(report: InspectReport, style: Style) -> Iterator[Grid]:
    measurement = report.measurement
    if len(measurement.sections) > 1:
        yield section_grid(measurement, rms=report.rms)
    if report.groups:
        yield group_grid(measurement, report.groups, rms=report.rms)
    if tensors := style.shown(report):
        yield tensor_grid(measurement, tensors, rms=report.rms)


def table(grid: Grid) -> Iterator[str]:
    """The lines of a table whose first column holds names."""
    yield _row(map(escaped, grid.headers))
    yield _row("---:" if numeric else ":---" for numeric in grid.numeric)
    for row in grid.rows:
        name, *figures = row.cells
        yield _row([code(name), *map(escaped, figures)])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _nonfinite(report: InspectReport) -> Iterator[str]:
    heading = nonfinite_heading(report.measurement)
    if heading is None:
        return
    yield ""
    yield f"**Non-finite**: {escaped(heading)}"
    yield ""
    if texts := [listed(text) for text in frontiers(report.measurement)]:
        yield from texts
        yield ""
    yield _row(["tensor", "non-finite", "finite before", "finite after"])
    yield "| :--- | :--- | :--- | :--- |"
    for bracket in brackets(report.measurement.in_order):
        around = _neighbour(bracket.before), _neighbour(bracket.after)
        for tensor in bracket.nonfinite:
            yield _row([code(brief(tensor.name)), escaped(nonfinite_elements(tensor)), *around])


def _neighbour(tensor: TensorMeasurement | None) -> str:
    return "none" if tensor is None else code(brief(tensor.name))
