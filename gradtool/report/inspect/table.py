"""Reports for people at a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from gradtool.core.figures import counted
from gradtool.core.measurement import Measurement, TensorMeasurement
from gradtool.core.order.brackets import Bracket, brackets
from gradtool.report.escaping import brief
from gradtool.report.grid import Grid, Row, group_grid, section_grid, tensor_grid
from gradtool.report.inspect.rows import row_grid, row_heading, shown_rows
from gradtool.report.layout import HEADER, MOODS, Painter, grid_lines, paragraph
from gradtool.report.model import InspectReport, Style
from gradtool.report.words import (
    both_ends,
    diagnoses,
    frontiers,
    holdings,
    left_out,
    nonfinite_elements,
    nonfinite_heading,
    nonfinite_patterns,
    origin,
    skipped_summary,
    totals,
)

LABEL_WIDTH = 13
RUNS = 10
"""Runs of non-finite tensors that are shown without --all."""

FEW_RUNS = 3
"""Runs of non-finite tensors that are shown rather than what their names have in common."""

TENSORS_OF_RUN = 8
"""Tensors of a run that are shown without --all."""


def render(reports: Sequence[InspectReport], style: Style) -> str:
    """The reports one after the other, separated by empty lines."""
    painter = Painter(colour=style.colour)
    texts = ("\n".join(_lines(report, style, painter)) + "\n" for report in reports)
    return "\n".join(texts)


def _lines(report: InspectReport, style: Style, painter: Painter) -> Iterator[str]:
    yield from title(report.measurement, style, painter, report.order)
    yield ""
    yield from _grids(report, style, painter)
    yield from labelled(totals(report, style), style, painter)
    yield from _remarks(report, style, painter)
    yield from _nonfinite(report, style, painter)


def title(
    measurement: Measurement, style: Style, painter: Painter, order: str | None = None
) -> Iterator[str]:
    """A paragraph with the path, what was read, what is in it, and in which order it is shown."""
    path = brief(measurement.path)
    shown = f", in {order}" if order else ""
    text = f"{path} ({origin(measurement)}): {holdings(measurement)}{shown}"
    first, *following = paragraph(text, style.width, "  ")
    yield first.replace(path, painter.paint(path, HEADER), 1)
    yield from following


def _grids(report: InspectReport, style: Style, painter: Painter) -> Iterator[str]:
    measurement = report.measurement
    if tensors := style.shown(report):
        yield from grid_lines(
            tensor_grid(measurement, tensors, bars=style.bars, rms=report.rms),
            style.width,
            painter,
        )
        if hidden := len(measurement.tensors) - len(tensors):
            more = left_out(f"{hidden:,} more", style, all_in_rows=True)
            yield painter.paint(more, MOODS["minor"])
        yield ""
    for table in () if style.quiet else report.by_row:
        for line in paragraph(row_heading(table), style.width, "  "):
            yield painter.paint(line, HEADER)
        yield from grid_lines(row_grid(report, table, style), style.width, painter)
        if hidden := len(table.rows) - len(shown_rows(report, table, style)):
            more = left_out(counted(hidden, "more row"), style)
            yield painter.paint(more, MOODS["minor"])
        yield ""
    if report.groups:
        yield from grid_lines(
            group_grid(measurement, report.groups, rms=report.rms), style.width, painter
        )
        yield ""
    if len(measurement.sections) > 1:
        yield from grid_lines(section_grid(measurement, rms=report.rms), style.width, painter)
        yield ""


def labelled(pairs: Iterable[tuple[str, str]], style: Style, painter: Painter) -> Iterator[str]:
    """A line for each label and its value, several for a value that is too long for one."""
    for label, value in pairs:
        first, *following = paragraph(
            f"{label:<{LABEL_WIDTH}} {value}", style.width, " " * (LABEL_WIDTH + 1)
        )
        yield painter.paint(first[:LABEL_WIDTH], HEADER) + first[LABEL_WIDTH:]
        yield from following


def _remarks(report: InspectReport, style: Style, painter: Painter) -> Iterator[str]:
    measurement = report.measurement
    if not style.quiet:
        skipped = skipped_summary(measurement.skipped, show_all=style.show_all)
        yield from labelled((("skipped", line) for line in skipped), style, painter)
    said = measurement.essential_notes if style.quiet else measurement.notes
    yield from labelled((("note", brief(note)) for note in said), style, painter)
    for text in diagnoses(measurement):
        yield ""
        for line in paragraph(text, style.width, "  "):
            yield painter.paint(line, MOODS["alarming"])


def _nonfinite(report: InspectReport, style: Style, painter: Painter) -> Iterator[str]:
    heading = nonfinite_heading(report.measurement)
    if heading is None:
        return
    runs = list(brackets(report.measurement.in_order))
    alike = list(nonfinite_patterns(report.measurement))
    by_pattern = len(runs) > max(FEW_RUNS, len(alike)) and not style.show_all
    shown = runs if style.show_all else [] if by_pattern else runs[:RUNS]
    rows = [row for run in shown for row in _bracket_rows(run, style)]
    if by_pattern:
        rows = [Row((brief(text), words), "alarming") for text, words in alike]
    yield ""
    yield painter.paint(f"non-finite: {heading}", HEADER)
    _, *lines = grid_lines(Grid(("", ""), (False, False), tuple(rows)), style.width, painter)
    yield from lines
    for text in frontiers(report.measurement):
        yield from paragraph(text, style.width, "  ")
    if by_pattern:
        yield painter.paint(left_out(counted(len(runs), "run"), style), MOODS["minor"])
    elif len(shown) < len(runs):
        more = f"{counted(len(runs) - len(shown), 'more run')} of non-finite tensors"
        yield painter.paint(left_out(more, style), HEADER)


def _bracket_rows(bracket: Bracket, style: Style) -> Iterator[Row]:
    yield _neighbour(bracket.before, "(start)")
    run = bracket.nonfinite
    first, last = (run, ()) if style.show_all else both_ends(run, TENSORS_OF_RUN)
    yield from map(_bad, first)
    if hidden := len(run) - len(first) - len(last):
        yield Row(
            (f"  … {hidden:,} more", "" if style.in_python else "--all shows them"), "alarming"
        )
    yield from map(_bad, last)
    yield _neighbour(bracket.after, "(end)")


def _bad(tensor: TensorMeasurement) -> Row:
    return Row((f"  {brief(tensor.name)}", nonfinite_elements(tensor)), "alarming")


def _neighbour(tensor: TensorMeasurement | None, edge: str) -> Row:
    if tensor is None:
        return Row((edge, ""), "minor")
    return Row((brief(tensor.name), "finite"), "minor")
