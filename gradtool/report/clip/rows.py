"""What clipping did to each tensor, in flat rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gradtool.core.clip.outcome import ClipOutcome, Clipped
from gradtool.core.figures import dimensions


def clip_rows(outcome: ClipOutcome) -> Iterator[dict[str, Any]]:
    """A row for each tensor; `clip_coef` is None where its elements have no one factor."""
    for part in outcome.parts:
        yield from _rows(outcome, part)


def _rows(outcome: ClipOutcome, part: Clipped) -> Iterator[dict[str, Any]]:
    measured = () if part.after is None else part.after.tensors
    after = {tensor.name: tensor for tensor in measured}
    for tensor in part.before.in_order:
        written = after.get(tensor.name)
        yield {
            "path": outcome.path,
            "rank": part.rank,
            "output": outcome.output,
            "name": tensor.name,
            "section": tensor.spec.section,
            "dtype": tensor.spec.dtype.name,
            "shape": dimensions(tensor.spec.shape),
            "numel": tensor.stats.numel,
            "clip_coef": _factor(outcome, part, tensor.name),
            "changed": tensor.name in part.plan.changed,
            "norm_before": tensor.norm,
            "norm_after": None if written is None else written.norm,
        }


def _factor(outcome: ClipOutcome, part: Clipped, name: str) -> float | None:
    transform = part.plan.transforms.get(name)
    by_value = outcome.request.clip_value is not None
    if by_value or (transform is not None and transform.units is not None):
        return None
    return 1.0 if transform is None else transform.coef
