"""The outcome of `clip` for programs, schema `gradtool.clip/1`: strict JSON, one flat object."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from gradtool._version import __version__
from gradtool.core.clip.groups import GroupFigures
from gradtool.core.clip.outcome import ClipOutcome, Clipped
from gradtool.core.figures import json_number
from gradtool.report.inspect.json import optional
from gradtool.report.model import Style

SCHEMA: Final = "gradtool.clip/1"


def render(outcome: ClipOutcome, style: Style) -> str:  # noqa: ARG001
    """The outcome as one JSON object, a field a line."""
    request = outcome.request
    fields = {
        "schema": SCHEMA,
        "gradtool": __version__,
        "path": outcome.path,
        "output": outcome.output,
        "format": outcome.format,
        "norm_type": json_number(outcome.norm_type),
        "max_norm": optional(request.max_norm),
        "clip_value": optional(request.clip_value),
        "eps": request.eps,
        "total_norm": request.total_norm,
        "per_tensor": request.per_tensor,
        "loss_scale": outcome.loss_scale,
        "step": outcome.step,
        "nonfinite": request.nonfinite,
        "agc": optional(request.agc),
        "clip_coef": outcome.clip_coef,
        "norm_before": optional(outcome.norm_before),
        "norm_after": optional(outcome.norm_after),
        "finite_norm_before": optional(outcome.finite_norm_before),
        "finite_norm_after": optional(outcome.finite_norm_after),
        "tensors": outcome.tensors,
        **_groups(outcome.groups),
        "tensors_changed": outcome.tensors_changed,
        "nonfinite_replaced": outcome.nonfinite_replaced,
        "ranks": list(map(_rank, outcome.ranks)),
        "written": outcome.written,
        "notes": list(outcome.notes),
        "elapsed_s": round(outcome.elapsed_s, 6),
    }
    return json.dumps(fields, indent=1, allow_nan=False) + "\n"


def _groups(groups: Sequence[GroupFigures]) -> dict[str, object]:
    """What was clipped by norms of its own, and the tensors in no group."""
    return {
        "groups": [_group(group) for group in groups if group.pattern is not None],
        "rest": next((_group(group) for group in groups if group.pattern is None), None),
    }


def _group(group: GroupFigures) -> dict[str, object]:
    return {
        "pattern": group.pattern,
        "max_norm": optional(group.max_norm),
        "clip_coef": group.clip_coef,
        "norm_before": json_number(group.norm_before),
        "norm_after": optional(group.norm_after),
        "tensors": group.tensors,
    }


def _rank(one: Clipped) -> dict[str, object]:
    """A rank that was clipped by its own norm, or by those of its groups."""
    return {
        "rank": one.rank,
        "path": one.before.path,
        "loss_scale": one.before.loss_scale,
        "step": one.before.step,
        "clip_coef": one.clip_coef,
        "norm_before": json_number(one.norm_before),
        "norm_after": optional(one.norm_after),
        "finite_norm_before": json_number(one.finite_norm_before),
        "finite_norm_after": optional(one.finite_norm_after),
        "tensors": one.tensors,
        **_groups(one.groups),
        "tensors_changed": one.plan.tensors_changed,
        "nonfinite_replaced": one.plan.nonfinite_replaced,
    }
