"""Trends as RFC 4180 CSV: a row for each step, or for each tensor of one."""

from __future__ import annotations

import csv
import io

from gradtool.report.inspect.csv import cell
from gradtool.report.model import Style, TrendReport
from gradtool.report.trend.rows import COLUMNS, PART_COLUMNS, part_rows, step_rows


def render(report: TrendReport, style: Style) -> str:  # noqa: ARG001
    """The steps of all runs under one header."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(PART_COLUMNS if report.long else COLUMNS)
    rows = part_rows(report.trend) if report.long else step_rows(report.trend)
    writer.writerows(map(cell, row.values()) for row in rows)
    return out.getvalue()
