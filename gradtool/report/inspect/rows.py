"""Rows of tensors as tables, and in one sentence each."""

from __future__ import annotations

from collections.abc import Iterator

from gradtool.core.figures import dimensions, norm_name, precise, significant
from gradtool.core.shapes.rows import RowMeasurement
from gradtool.report.escaping import brief
from gradtool.report.grid import CELL_DIGITS, Grid, Row, magnitude_name
from gradtool.report.model import SHOWN_ROWS, InspectReport, RowTable, Style


def shown_rows(report: InspectReport, table: RowTable, style: Style) -> tuple[RowMeasurement, ...]:
    """The rows of a table that people are shown."""
    return table.rows if style.show_all or report.is_cut else table.rows[:SHOWN_ROWS]


def row_heading(table: RowTable) -> str:
    """As `embedding.weight (10x5) by row: row 0 is the largest, 1129.21432864, 100.0 %`."""
    tensor = table.tensor
    start = f"{brief(tensor.name)} ({dimensions(tensor.spec.shape)}) by row"
    bad = sum(row.stats.nonfinite > 0 for row in tensor.rows)
    if bad:
        return f"{start}: {bad:,} of {len(tensor.rows):,} rows {_are(bad)} not finite"
    if not table.rows:
        return start
    first = table.rows[0]
    share = _share(table, first)
    return f"{start}: row {first.index} is the largest, {precise(first.norm)}, {share}"


def row_grid(report: InspectReport, table: RowTable, style: Style) -> Grid:
    """A line for each row that is shown."""
    measurement, rows = report.measurement, shown_rows(report, table, style)
    has_bad = any(row.stats.nonfinite for row in rows)
    headers = ["row", norm_name(measurement.norm_type), "share", magnitude_name(measurement)]
    return Grid(
        headers=(*headers, *(["non-finite"] if has_bad else [])),
        numeric=(False, True, True, True, *([True] if has_bad else [])),
        rows=tuple(
            Row(
                tuple(_cells(table, row, has_bad=has_bad)),
                "alarming" if row.stats.nonfinite else "plain",
            )
            for row in rows
        ),
    )


def _cells(table: RowTable, row: RowMeasurement, *, has_bad: bool) -> Iterator[str]:
    yield f"row {row.index}"
    yield significant(row.norm, CELL_DIGITS)
    yield _share(table, row)
    yield significant(row.stats.max_abs, CELL_DIGITS)
    if has_bad:
        yield f"{row.stats.nonfinite:,}" if row.stats.nonfinite else "-"


def _share(table: RowTable, row: RowMeasurement) -> str:
    share = None if row.stats.nonfinite else row.share(table.tensor.stats)
    return "-" if share is None else f"{100.0 * share:.1f} %"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
