"""Differences as RFC 4180 CSV, a row for each pair; see `report.inspect.csv` on texts."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from gradtool.report.diff.columns import COLUMNS, rows
from gradtool.report.inspect.csv import cell
from gradtool.report.model import Style

if TYPE_CHECKING:
    from gradtool.core.comparing.difference import Difference


def render(difference: Difference, style: Style) -> str:  # noqa: ARG001
    """All pairs under one header; those without one have the name on their side alone."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    writer.writerows(map(_cell, row.values()) for row in rows(difference))
    return out.getvalue()


def _cell(value: object) -> object:
    """As of `inspect`, and true and false as JSON spells them."""
    return str(value).lower() if isinstance(value, bool) else cell(value)
