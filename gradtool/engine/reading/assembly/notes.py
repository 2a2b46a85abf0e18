"""What the figures of a measurement make worth a note."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gradtool.core.clipping import is_clipped_to
from gradtool.core.measurement import Summary, TensorMeasurement

MOST_NOTES = 3
"""Notes of one kind that are given in full; the others are only counted."""


def sharing_notes(tensors: Iterable[TensorMeasurement]) -> Iterator[str]:
    """Which tensors name elements that others name too, or the same ones again."""
    sharing = [
        tensor
        for tensor in tensors
        if tensor.unique is not None and tensor.unique.numel != tensor.stats.numel
    ]
    for tensor in sharing[:MOST_NOTES]:
        yield (
            f"{tensor.name!r} names {tensor.stats.numel} elements, of which "
            f"{tensor.unique.numel if tensor.unique else 0} are stored for it alone; "
            "totals count those"
        )
    if len(sharing) > MOST_NOTES:
        yield f"{len(sharing) - MOST_NOTES} more tensors share elements with others or repeat them"


def clipping_notes(sections: Iterable[Summary], total: Summary | None) -> Iterator[str]:
    """All that a norm alone tells of clipping: 1 is what most gradients are clipped to."""
    normed = [section for section in sections if section.has_norm]
    gradients = [section for section in normed if section.kind in (None, "gradients")]
    if total is not None and len(gradients) == len(normed):
        gradients = [total]
    for summary in gradients:
        if is_clipped_to(summary.norm, 1.0):
            whose = f"norm of {summary.name!r}" if summary.name else "total norm"
            yield f"the {whose} is 1 within 1e-6: dumped after clipping?"
