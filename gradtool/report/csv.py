"""One row per tensor, as RFC 4180 has it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

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
)


def render(reports: Sequence[InspectReport], style: Style) -> str:  # noqa: ARG001
    """The tensors of all reports under one header; names are spelt as `recoverable` has it."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(HEADER)
    for report in reports:
        path = recoverable(report.measurement.path)
        writer.writerows(_row(path, tensor) for tensor in report.rows)
    return out.getvalue()


def _row(path: str, tensor: TensorMeasurement) -> Iterator[object]:
    spec, stats = tensor.spec, tensor.stats
    first, native = tensor.first_nonfinite, tensor.native_norm
    yield path
    yield recoverable(spec.name)
    yield recoverable(spec.section)
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
    yield recoverable(tensor.alias_of or "")
