"""Reports as RFC 4180 CSV, a row for each tensor, in which no text is a spreadsheet's formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import Final

from gradtool.core.figures import dimensions, index_text, number
from gradtool.core.measurement import TensorMeasurement
from gradtool.report.escaping import recoverable
from gradtool.report.model import InspectReport, Style

HEADER = (
    "path",
    "name",
    "section",
    "dtype",
    "shape",
    "numel",
    "norm",
    "finite_norm",
    "native_norm",
    "max_abs",
    "nan",
    "posinf",
    "neginf",
    "zeros",
    "first_nonfinite",
    "alias_of",
    "digest",
)

_OPERATOR: Final = "[-=+@\u207a\u207b\u207c\u2212\ufe62\ufe63\ufe66\ufe6b\uff0b\uff0d\uff1d\uff20]"
"""What a formula begins with, and the variants in Unicode that programs accept too."""

_FORMULA: Final = re.compile(rf" *{_OPERATOR}|'")
_FORMULA_AFTER: Final = re.compile(rf';(?=[ "]*{_OPERATOR})')


def render(reports: Sequence[InspectReport], style: Style) -> str:  # noqa: ARG001
    """The tensors of all reports under one header, with texts as `literal` makes them."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(HEADER)
    for report in reports:
        path = literal(report.measurement.path)
        writer.writerows(_row(path, tensor) for tensor in report.rows)
    return out.getvalue()


def literal(text: str) -> str:
    r"""`text` as `recoverable` has it, in a cell that no spreadsheet computes.

    A quote is put before text that begins like a formula, after blanks or not, and before a quote;
    taking one quote off the front of such a cell and undoing the escapes gives the text back. A
    semicolon before such a beginning becomes `\x3b`: programs for which it separates cells would
    take the rest for a formula.
    """
    cell = _FORMULA_AFTER.sub(r"\\x3b", recoverable(text))
    return f"'{cell}" if _FORMULA.match(cell) else cell


def _row(path: str, tensor: TensorMeasurement) -> Iterator[object]:
    spec, stats = tensor.spec, tensor.stats
    first, native = tensor.first_nonfinite, tensor.native_norm
    yield path
    yield literal(spec.name)
    yield literal(spec.section)
    yield spec.dtype.name
    yield dimensions(spec.shape)
    yield stats.numel
    yield number(tensor.norm)
    yield number(tensor.finite_norm)
    yield "" if native is None else number(native)
    yield number(stats.max_abs)
    yield stats.nan
    yield stats.posinf
    yield stats.neginf
    yield stats.zeros
    yield "" if first is None else index_text(first)
    yield literal(tensor.alias_of or "")
    yield tensor.digest or ""
