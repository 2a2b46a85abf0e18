"""A tensor's figures in a flat row: the columns of CSV."""

from __future__ import annotations

from typing import Any, Final

from gradtool.core.figures import dimensions, index_text
from gradtool.core.measurement import TensorMeasurement

COLUMNS: Final = (
    *("path", "name", "section", "dtype", "shape", "numel"),
    *("norm", "finite_norm", "native_norm", "max_abs", "nan", "posinf", "neginf", "zeros"),
    *("first_nonfinite", "alias_of", "digest"),
)


def tensor_row(path: str, tensor: TensorMeasurement) -> dict[str, Any]:
    """The columns of a tensor of the dump at `path`; None for what it does not have."""
    spec, stats, first = tensor.spec, tensor.stats, tensor.first_nonfinite
    values = (
        *(path, spec.name, spec.section, spec.dtype.name, dimensions(spec.shape), stats.numel),
        *(tensor.norm, tensor.finite_norm, tensor.native_norm, stats.max_abs),
        *(stats.nan, stats.posinf, stats.neginf, stats.zeros),
        *(None if first is None else index_text(first), tensor.alias_of, tensor.digest),
    )
    return dict(zip(COLUMNS, values, strict=True))
