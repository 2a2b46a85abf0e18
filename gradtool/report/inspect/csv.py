"""Reports as RFC 4180 CSV: each tensor and the total, and no text that a spreadsheet computes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from gradtool.core.figures import number
from gradtool.report.escaping import recoverable
from gradtool.report.inspect.columns import COLUMNS, tensor_row, total_row
from gradtool.report.model import InspectReport, Style

_OPERATOR: Final = "[-=+@\u207a\u207b\u207c\u2212\ufe62\ufe63\ufe66\ufe6b\uff0b\uff0d\uff1d\uff20]"
"""What a formula begins with, and the variants in Unicode that programs accept too."""

_FORMULA: Final = re.compile(rf" *{_OPERATOR}|'")
_FORMULA_AFTER: Final = re.compile(rf';(?=[ "]*{_OPERATOR})')


def render(reports: Sequence[InspectReport], style: Style) -> str:  # noqa: ARG001
    """The tensors of all reports under one header, with texts as `literal` makes them."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for report in reports:
        writer.writerows(map(cell, row.values()) for row in _rows(report))
    return out.getvalue()


def _rows(report: InspectReport) -> Iterator[dict[str, Any]]:
    measurement, total = report.measurement, report.measurement.total
    yield from (tensor_row(measurement, tensor) for tensor in report.rows)
    if total is not None:
        yield total_row(measurement, total)


def literal(text: str) -> str:
    r"""`text` as `recoverable` has it, in a cell that no spreadsheet computes.

    A quote is put before text that begins like a formula, after blanks or not, and before a quote;
    taking one quote off the front of such a cell and undoing the escapes gives the text back. A
    semicolon before such a beginning becomes `\x3b`: programs for which it separates cells would
    take the rest for a formula.
    """
    cell = _FORMULA_AFTER.sub(r"\\x3b", recoverable(text))
    return f"'{cell}" if _FORMULA.match(cell) else cell


def cell(value: object) -> object:
    """A figure in all its digits, a text that nothing computes, and nothing for None."""
    if isinstance(value, float):
        return number(value)
    if isinstance(value, str):
        return literal(value)
    return "" if value is None else value
