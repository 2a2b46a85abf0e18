"""Differences for programs, schema `gradtool.diff/1`: strict JSON, one line for each pair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gradtool._version import __version__
from gradtool.core.comparing.roll_up import PairSummary, by_section
from gradtool.core.figures import json_number
from gradtool.core.tensors import TensorSpec
from gradtool.report.inspect.json import optional
from gradtool.report.json_lines import json_object
from gradtool.report.model import Style

if TYPE_CHECKING:
    from gradtool.core.comparing.difference import (
        Difference,
        DumpSide,
        TensorDifference,
    )
    from gradtool.core.comparing.distance import Number
    from gradtool.core.comparing.others import OtherDifference
    from gradtool.core.comparing.tolerance import Tolerance
    from gradtool.core.stats import TensorStats

SCHEMA: Final = "gradtool.diff/1"


def render(difference: Difference, style: Style) -> str:  # noqa: ARG001
    """The difference as one JSON object."""
    return json_object(_fields(difference)) + "\n"


def _fields(difference: Difference) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "gradtool": __version__,
        "a": _dump(difference.a),
        "b": _dump(difference.b),
        "identical": difference.identical,
        "same": difference.same,
        "order": "model" if difference.in_model_order else "natural",
        "tolerance": _tolerance(difference.tolerance),
        "tolerances": [
            {"pattern": one.pattern, **_tolerance(one.tolerance)} for one in difference.tolerances
        ],
        "config": difference.config,
        "first_difference": difference.first_difference,
        "diagnosis": [
            {
                "code": one.code,
                "name": one.name,
                "text": one.text,
                "tensors": list(one.tensors),
            }
            for one in difference.diagnosis
        ],
        "sections": map(_summary, by_section(difference.tensors)),
        "tensors": map(_tensor, difference.tensors),
        "others": map(_other, difference.others),
        "only_in_a": list(difference.only_in_a),
        "only_in_b": list(difference.only_in_b),
        "not_compared": [item.name for item in difference.not_compared],
        "notes": list(difference.notes),
        "backend": difference.backend,
        "elapsed_s": round(difference.elapsed_s, 6),
    }


def _dump(side: DumpSide) -> dict[str, object]:
    return {
        "path": side.path,
        "format": side.format,
        "files": len(side.files),
        "bytes": side.nbytes,
        "loss_scale": side.loss_scale,
        "step": side.step,
        "skipped": [
            {
                "name": item.name,
                "section": item.section,
                "dtype": item.dtype,
                "reason": item.reason,
            }
            for item in side.skipped
        ],
        "notes": list(side.notes),
    }


def _tolerance(tolerance: Tolerance) -> dict[str, object]:
    return {
        "rtol": tolerance.rtol,
        "atol": tolerance.atol,
        "max_rel_l2": tolerance.max_rel_l2,
        "ulps": tolerance.ulps,
        "equal_nan": tolerance.equal_nan,
    }


def _tensor(tensor: TensorDifference) -> dict[str, object]:
    first, largest = tensor.first_differing, tensor.max_abs_diff_at
    stats = tensor.stats
    a, b = stats or (None, None)
    return {
        "name": tensor.name,
        "name_in_b": tensor.b.name,
        "section": tensor.a.section,
        "numel": tensor.a.numel,
        "identical": tensor.identical,
        "same": tensor.same,
        "problem": tensor.problem,
        "differing": tensor.differing,
        "first_differing": None if first is None else list(first),
        "first_values": _pair(tensor.first_values),
        "rel_l2": optional(tensor.rel_l2),
        "cosine": tensor.cosine,
        "norm_ratio": optional(tensor.norm_ratio),
        "best_scale": optional(tensor.best_scale),
        "rel_l2_scaled": optional(tensor.rel_l2_scaled),
        "max_abs_diff": optional(tensor.max_abs_diff),
        "max_abs_diff_at": None if largest is None else list(largest),
        "max_abs_diff_values": _pair(tensor.max_abs_diff_values),
        "opposite_signs": tensor.opposite_signs,
        "zero_signs": None if tensor.distance is None else tensor.distance.zero_signs,
        "max_ulps": tensor.max_ulps,
        "equal_when_rounded": tensor.equal_when_rounded,
        "a": _side(tensor.a, a),
        "b": _side(tensor.b, b),
    }


def _summary(summary: PairSummary) -> dict[str, object]:
    """The pairs of a section together."""
    a, b = summary.sides
    return {
        "name": summary.name,
        "tensors": len(summary.pairs),
        "not_same": summary.apart,
        "compared": summary.compared,
        "rel_l2": optional(summary.rel_l2),
        "cosine": summary.cosine,
        "norm_ratio": optional(summary.norm_ratio),
        "max_abs_diff": optional(summary.max_abs_diff),
        "a": _figures(a),
        "b": _figures(b),
    }


def _other(other: OtherDifference) -> dict[str, object]:
    first = other.first_differing
    return {
        "name": other.name,
        "section": other.section,
        "identical": other.identical,
        "differing": other.differing,
        "first_differing": None if first is None else list(first),
        "a": {"dtype": other.a.dtype.name, "shape": list(other.a.shape)},
        "b": {"dtype": other.b.dtype.name, "shape": list(other.b.shape)},
    }


def _side(spec: TensorSpec, stats: TensorStats | None) -> dict[str, object]:
    return {"dtype": spec.dtype.name, "shape": list(spec.shape), **_figures(stats)}


def _figures(stats: TensorStats | None) -> dict[str, object]:
    """Of the elements of one side; null where they were not compared."""
    return {
        "norm": None if stats is None else json_number(stats.norm),
        "max_abs": None if stats is None else json_number(stats.max_abs),
        "nan": None if stats is None else stats.nan,
        "posinf": None if stats is None else stats.posinf,
        "neginf": None if stats is None else stats.neginf,
    }


def _pair(values: tuple[Number, Number] | None) -> list[object] | None:
    """Both numbers; a complex one as its parts."""
    return None if values is None else [_number(value) for value in values]


def _number(value: Number) -> object:
    if isinstance(value, complex):
        return [json_number(value.real), json_number(value.imag)]
    return json_number(value)
