"""Figures in flat rows: the columns of CSV."""

from __future__ import annotations

from typing import Any, Final

from gradtool.core.figures import dimensions, index_text
from gradtool.core.measurement import Measurement, Summary, TensorMeasurement
from gradtool.core.stats import TensorStats

COLUMNS: Final = (
    *("path", "step", "name", "section", "dtype", "shape", "numel"),
    *("norm", "finite_norm", "native_norm", "max_abs", "nan", "posinf", "neginf", "zeros"),
    *("first_nonfinite", "alias_of", "digest", "rms"),
)

TOTAL: Final = "(total)"
"""The name in the row of all tensors together, which has no dtype."""


def tensor_row(measurement: Measurement, tensor: TensorMeasurement) -> dict[str, Any]:
    """The columns of a tensor; None for what it does not have."""
    spec, first = tensor.spec, tensor.first_nonfinite
    values = (
        *(measurement.path, measurement.step, spec.name, spec.section, spec.dtype.name),
        *(dimensions(spec.shape), tensor.stats.numel),
        *(tensor.norm, tensor.finite_norm, tensor.native_norm, *_counts(tensor.stats)),
        *(None if first is None else index_text(first), tensor.alias_of),
        *(tensor.digest, tensor.rms),
    )
    return dict(zip(COLUMNS, values, strict=True))


def total_row(measurement: Measurement, total: Summary) -> dict[str, Any]:
    """The columns of all tensors together."""
    values = (
        *(measurement.path, measurement.step, TOTAL, None, None, None, total.stats.numel),
        *(total.norm, total.finite_norm, total.native_norm, *_counts(total.stats)),
        *(None, None, None, total.rms),
    )
    return dict(zip(COLUMNS, values, strict=True))


def _counts(stats: TensorStats) -> tuple[float, int, int, int, int]:
    return stats.max_abs, stats.nan, stats.posinf, stats.neginf, stats.zeros
