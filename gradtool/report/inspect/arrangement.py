"""Choosing which figures of a measurement are reported, and in which order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from gradtool.core.clipping import TORCH_EPS
from gradtool.core.measurement import Measurement, TensorMeasurement
from gradtool.core.names import natural_key, ordered
from gradtool.core.shapes.rows import RowMeasurement
from gradtool.report.model import ClipPreview, InspectReport, RowTable


def _by_norm(tensor: TensorMeasurement | RowMeasurement) -> tuple[bool, float]:
    return (False, 0.0) if math.isnan(tensor.norm) else (True, -tensor.norm)


ORDERS: Final[dict[str, Callable[[TensorMeasurement], Any] | None]] = {
    "model": None,
    "file": None,
    "name": lambda tensor: (natural_key(tensor.name), tensor.name),
    "norm": _by_norm,
    "max": lambda tensor: -tensor.stats.max_abs,
    "nonfinite": lambda tensor: -tensor.stats.nonfinite,
}
"""The sort key of each order, by which the most alarming come first.

None is for the order that tells which tensors are next to each other, and for the file's list.
"""


def arrange(
    tensors: Sequence[TensorMeasurement],
    order: str,
    top: int | None = None,
    *,
    in_model_order: bool = False,
) -> tuple[TensorMeasurement, ...]:
    """`tensors`, given as the file lists them, sorted by `order`; only the first `top` if given.

    Tensors with equal keys keep their order. `in_model_order` says whether the file's is the
    model's.
    """
    key = ORDERS[order]
    if order == "model":
        tensors = ordered(tensors, in_model_order=in_model_order)
    return tuple((sorted(tensors, key=key) if key else tensors)[:top])


def _worst(rows: Sequence[RowMeasurement], top: int | None) -> tuple[RowMeasurement, ...]:
    """The rows that are not finite, then the others by their norms; the first `top` if given."""
    return tuple(sorted(rows, key=lambda row: (not row.stats.nonfinite, _by_norm(row)))[:top])


def report_on(
    measurement: Measurement,
    *,
    order: str = "model",
    top: int | None = None,
    group_by: str | None = None,
    max_norm: float | None = None,
    eps: float = TORCH_EPS,
    rms: bool = False,
) -> InspectReport:
    """The report of `measurement`, with groups and a preview of clipping where asked for."""
    apart = (tensor for tensor in measurement.tensors if tensor.rows)
    clip = None
    if max_norm is not None:
        clip = ClipPreview(max_norm, eps, measurement.clip_coef(max_norm, eps))
    return InspectReport(
        measurement,
        rows=arrange(measurement.tensors, order, top, in_model_order=measurement.in_model_order),
        groups=() if group_by is None else measurement.grouped(group_by),
        clip=clip,
        rms=rms,
        order=measurement.order if order == "model" else None,
        by_row=tuple(RowTable(tensor, _worst(tensor.rows, top)) for tensor in apart),
        is_cut=top is not None,
    )
