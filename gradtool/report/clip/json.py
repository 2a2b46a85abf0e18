"""The outcome of `clip` for programs, schema `gradtool.clip/1`: strict JSON, one flat object."""

from __future__ import annotations

import json
from typing import Final

from gradtool._version import __version__
from gradtool.core.clip.outcome import ClipOutcome
from gradtool.core.figures import json_number
from gradtool.report.inspect.json import optional
from gradtool.report.model import Style

SCHEMA: Final = "gradtool.clip/1"


def render(outcome: ClipOutcome, style: Style) -> str:  # noqa: ARG001
    """The outcome as one JSON object, a field a line."""
    request, before = outcome.request, outcome.before
    fields = {
        "schema": SCHEMA,
        "gradtool": __version__,
        "path": outcome.path,
        "output": outcome.output,
        "format": before.format,
        "norm_type": json_number(before.norm_type),
        "max_norm": optional(request.max_norm),
        "clip_value": optional(request.clip_value),
        "eps": request.eps,
        "total_norm": request.total_norm,
        "per_tensor": request.per_tensor,
        "loss_scale": before.loss_scale,
        "step": before.step,
        "nonfinite": request.nonfinite,
        "clip_coef": outcome.clip_coef,
        "norm_before": json_number(outcome.norm_before),
        "norm_after": optional(outcome.norm_after),
        "finite_norm_before": json_number(outcome.finite_norm_before),
        "finite_norm_after": optional(outcome.finite_norm_after),
        "tensors": outcome.tensors,
        "tensors_changed": outcome.tensors_changed,
        "nonfinite_replaced": outcome.nonfinite_replaced,
        "written": outcome.written,
        "notes": list(outcome.notes),
        "elapsed_s": round(outcome.elapsed_s, 6),
    }
    return json.dumps(fields, indent=1, allow_nan=False) + "\n"
