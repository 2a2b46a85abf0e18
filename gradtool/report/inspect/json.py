"""Reports for programs, schema `gradtool.inspect/1`: strict JSON, one line for each tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from gradtool._version import __version__
from gradtool.core.figures import json_number
from gradtool.core.measurement import Summary, TensorMeasurement
from gradtool.core.shapes.rows import RowMeasurement
from gradtool.core.shapes.strides import unravel
from gradtool.core.tensors import Skipped
from gradtool.report.json_lines import encode, json_object
from gradtool.report.model import InspectReport, Style

SCHEMA: Final = "gradtool.inspect/1"


def render(reports: Sequence[InspectReport], style: Style) -> str:  # noqa: ARG001
    """All reports as one JSON object."""
    texts = ",\n".join(json_object(_report(report)) for report in reports)
    return f'{{"schema": "{SCHEMA}", "gradtool": "{__version__}", "reports": [\n{texts}\n]}}\n'


def _report(report: InspectReport) -> dict[str, object]:
    measurement, clip = report.measurement, report.clip
    total = measurement.total
    return {
        "path": measurement.path,
        "format": measurement.format,
        "files": len(measurement.files),
        "bytes": measurement.nbytes,
        "norm_type": json_number(measurement.norm_type),
        "backend": measurement.backend,
        "loss_scale": measurement.loss_scale,
        "step": measurement.step,
        "order": "model" if measurement.in_model_order else "names",
        "total": None if total is None else figures(total),
        "sections": (
            {"name": section.name, "kind": section.kind, **figures(section)}
            for section in measurement.sections
        ),
        "clip": None
        if clip is None
        else {
            "max_norm": json_number(clip.max_norm),
            "eps": clip.eps,
            "clip_coef": optional(clip.clip_coef),
        },
        "tensors": map(_tensor, report.rows),
        "groups": ({"name": group.name, **figures(group)} for group in report.groups),
        "rows": (_row(table.tensor, row) for table in report.by_row for row in table.rows),
        "skipped": map(_skipped, measurement.skipped),
        "notes": list(measurement.notes),
        "elapsed_s": round(measurement.elapsed_s, 6),
    }


def figures(summary: Summary) -> dict[str, object]:
    """The fields of a total, a section or a group; of what is `other` all norms are null."""
    stats, has_norm = summary.stats, summary.has_norm
    native_dtype = summary.native_dtype if has_norm else None
    return {
        "tensors": summary.tensors,
        "numel": stats.numel,
        "norm": json_number(summary.norm) if has_norm else None,
        "finite_norm": json_number(summary.finite_norm) if has_norm else None,
        "native_norm": optional(summary.native_norm) if has_norm else None,
        "native_dtype": None if native_dtype is None else native_dtype.name,
        "rms": optional(summary.rms) if has_norm else None,
        "max_abs": json_number(stats.max_abs),
        "nan": stats.nan,
        "posinf": stats.posinf,
        "neginf": stats.neginf,
        "zeros": stats.zeros,
        "subnormals": stats.subnormals,
        "lower_bound": summary.lower_bound,
    }


def _tensor(tensor: TensorMeasurement) -> str:
    """A tensor's line, put together here for speed: a report may have a hundred thousand."""
    spec, stats = tensor.spec, tensor.stats
    first = tensor.first_nonfinite
    return (
        f'{{"name": {encode(spec.name)}, "section": {encode(spec.section)}, '
        f'"dtype": "{spec.dtype.name}", "shape": {list(spec.shape)}, "numel": {stats.numel}, '
        f'"norm": {_number(tensor.norm)}, "finite_norm": {_number(tensor.finite_norm)}, '
        f'"native_norm": {_number(tensor.native_norm)}, "rms": {_number(tensor.rms)}, '
        f'"max_abs": {_number(stats.max_abs)}, '
        f'"nan": {stats.nan}, "posinf": {stats.posinf}, "neginf": {stats.neginf}, '
        f'"zeros": {stats.zeros}, "subnormals": {stats.subnormals}, '
        f'"first_nonfinite": {"null" if first is None else list(first)}, '
        f'"alias_of": {encode(tensor.alias_of)}, "digest": {encode(tensor.digest)}}}'
    )


def _row(tensor: TensorMeasurement, row: RowMeasurement) -> dict[str, object]:
    """A row of a tensor, with its index."""
    stats, first = row.stats, row.stats.first_nonfinite
    return {
        "tensor": tensor.name,
        "section": tensor.spec.section,
        "index": row.index,
        "numel": stats.numel,
        "norm": json_number(row.norm),
        "finite_norm": json_number(row.finite_norm),
        "share": row.share(tensor.stats),
        "max_abs": json_number(stats.max_abs),
        "nan": stats.nan,
        "posinf": stats.posinf,
        "neginf": stats.neginf,
        "zeros": stats.zeros,
        "first_nonfinite": None if first is None else unravel(first, tensor.spec.shape),
    }


def _number(value: float | None) -> str:
    return repr(value) if value is not None and math.isfinite(value) else encode(optional(value))


def _skipped(skipped: Skipped) -> dict[str, object]:
    return {
        "name": skipped.name,
        "section": skipped.section,
        "dtype": skipped.dtype,
        "reason": skipped.reason,
    }


def optional(value: float | None) -> float | str | None:
    """`value` as `json_number` has it; None stays None."""
    return None if value is None else json_number(value)
