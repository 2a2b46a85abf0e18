"""What cannot be clipped, as far as the catalogue tells."""

from __future__ import annotations

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.clip.plan import ClipRequest
from gradtool.core.sections import OTHER, have_one_norm
from gradtool.core.tensors import hides_magnitude
from gradtool.errors import UnsupportedFormatError, UsageError


def refuse_unclippable(
    checkpoint: Checkpoint, norm_type: float, request: ClipRequest, *, explicit: bool
) -> None:
    """Refuse what cannot be clipped, as far as the catalogue tells before any tensor is read.

    `explicit` says whether tensors were chosen by name: weights and moments are clipped only then.

    Raises:
        UsageError: p <= 0, tensors of several kinds, which have no common norm, no gradients,
            or complex ones to be clipped by value.
        UnsupportedFormatError: a tensor that may be a gradient cannot be measured.
    """
    path = checkpoint.path
    if checkpoint.measure_only:
        raise UsageError(f"{path}: cannot be clipped: {checkpoint.measure_only}")
    if request.clip_value is None and norm_type <= 0.0:
        raise UsageError(f"gradients cannot be clipped by a norm of order {norm_type:g}")
    _refuse_mixture(checkpoint, explicit=explicit)
    hidden = next(filter(hides_magnitude, checkpoint.skipped), None)
    if hidden is not None:
        raise UnsupportedFormatError(
            path,
            f"may be a gradient and cannot be measured ({hidden.reason}, {hidden.dtype})",
            tensor=hidden.name,
            hint="leave it out with `exclude` to clip the others",
        )
    for spec in checkpoint.tensors:
        if request.clip_value is not None and spec.dtype.kind == "complex":
            problem = "complex numbers have no order to clip them by value"
            raise UsageError(f"{path}: {spec.name!r}: {problem}")


def _refuse_mixture(checkpoint: Checkpoint, *, explicit: bool) -> None:
    """Refuse tensors that have no norm together, and all but gradients unless `explicit`.

    Beside a recognised kind, tensors of no recognised kind count as one more.
    """
    sections = dict.fromkeys(spec.section for spec in checkpoint.tensors)
    kinds = {checkpoint.section_kinds.get(name) for name in sections}
    hint = "choose what to clip with `section` or `include`"
    if not have_one_norm(sections, checkpoint.section_kinds):
        names = ", ".join(repr(name) if name else "none" for name in sections)
        problem = f"holds different kinds of tensors, in the sections {names}"
        raise UsageError(f"{checkpoint.path}: {problem}", hint=hint)
    (kind,) = kinds
    is_other = sections.keys() == {OTHER}
    if (is_other or kind in ("weights", "optimizer")) and not explicit:
        what = "optimizer state" if kind == "optimizer" else kind or "what is neither"
        raise UsageError(f"{checkpoint.path}: holds {what}, no gradients", hint=hint)
