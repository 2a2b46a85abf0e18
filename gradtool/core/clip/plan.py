"""Planning a clip: which transform each measured tensor gets, or why clipping is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.clipping import IDENTITY, TORCH_EPS, Transform, clip_coef
from gradtool.core.figures import first_of, nonfinite_counts
from gradtool.core.measurement import Measurement, Summary, TensorMeasurement
from gradtool.core.stats import TensorStats
from gradtool.core.tensors import hides_magnitude
from gradtool.errors import (
    NonFiniteError,
    NormRangeError,
    UnsupportedFormatError,
    UsageError,
)

NonFinite = Literal["error", "zero", "keep"]
"""What clipping does about NaN and Inf: refuse, replace them by 0, leave their bits alone."""

_MOST_NAMED: Final = 3
_SMALLEST_COEF: Final = 2.0**-1034
"""A smaller float64 is subnormal and has fewer than twelve digits."""


@dataclass(frozen=True, slots=True)
class ClipRequest:
    """How to clip; checked when it is made, with UsageError for what makes no sense.

    Attributes:
        max_norm: bound on the norm, at least 0; infinity changes nothing. None to clip by value.
        clip_value: bound on each element's magnitude, at least 0. None to clip by norm.
        eps: what is added to the norm.
        total_norm: the norm to clip by, where these tensors are only a part of all.
        per_tensor: whether each tensor is clipped by its own norm, shared elements included.
        nonfinite: what to do about NaN and Inf.
    """

    max_norm: float | None = None
    clip_value: float | None = None
    eps: float = TORCH_EPS
    total_norm: float | None = None
    per_tensor: bool = False
    nonfinite: NonFinite = "error"

    def __post_init__(self) -> None:
        if (self.max_norm is None) == (self.clip_value is None):
            raise UsageError("give `max_norm` or `clip_value`, one of them")
        if self.max_norm is not None:
            clip_coef(0.0, self.max_norm, self.eps)
        if self.clip_value is not None:
            if not self.clip_value >= 0.0:
                raise UsageError(f"`clip_value` must be at least 0, not {self.clip_value}")
            if self.per_tensor or self.total_norm is not None:
                problem = "`per_tensor` and `total_norm` are for `max_norm`"
                raise UsageError(f"{problem}, not for `clip_value`")
        if self.total_norm is not None:
            if not 0.0 <= self.total_norm < math.inf:
                raise UsageError(f"`total_norm` must be finite, at least 0, not {self.total_norm}")
            if self.per_tensor:
                problem = "`per_tensor` and `total_norm`"
                raise UsageError(f"{problem} exclude each other")
        if self.nonfinite not in get_args(NonFinite):
            choices = ", ".join(get_args(NonFinite))
            raise UsageError(f"`nonfinite` must be one of {choices}, not {self.nonfinite!r}")


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """What clipping is going to do.

    Attributes:
        clip_coef: the factor of all tensors; None where each has its own or is clipped by value.
        transforms: by the names of the tensors to transform; the others stay as they are.
        changed: names of the tensors of which an element can change: zeros do not, for example.
        tensors_changed: number of stored tensors among those, each counted once.
        nonfinite_replaced: number of stored NaN and Inf that become 0.
    """

    clip_coef: float | None
    transforms: dict[str, Transform]
    changed: frozenset[str]
    tensors_changed: int
    nonfinite_replaced: int


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
    if request.max_norm is not None and norm_type <= 0.0:
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
    """Refuse tensors of several kinds, and all but gradients unless `explicit`.

    Beside a recognised kind, tensors of no recognised kind count as one more.
    """
    sections = dict.fromkeys(spec.section for spec in checkpoint.tensors)
    kinds = {checkpoint.section_kinds.get(name) for name in sections}
    hint = "choose what to clip with `section` or `include`"
    if len(kinds) > 1:
        names = ", ".join(repr(name) if name else "none" for name in sections)
        problem = f"holds different kinds of tensors, in the sections {names}"
        raise UsageError(f"{checkpoint.path}: {problem}", hint=hint)
    (kind,) = kinds
    if kind in ("weights", "optimizer") and not explicit:
        what = "weights" if kind == "weights" else "optimizer state"
        raise UsageError(f"{checkpoint.path}: holds {what}, no gradients", hint=hint)


def plan_clip(measurement: Measurement, request: ClipRequest) -> ClipPlan:
    """The plan to clip the tensors measured, all of one kind, as `request` says.

    Raises:
        NonFiniteError: NaN or Inf, where the request is to refuse them.
        NormRangeError: a norm, or a factor, that float64 cannot hold.
    """
    total = one_total(measurement)
    if request.nonfinite == "error":
        _refuse_nonfinite(measurement)
    coef = None
    if request.max_norm is not None and not request.per_tensor:
        coef = _coef(request, total.stats, measurement.path)
    transforms = {
        tensor.name: transform
        for tensor in measurement.tensors
        if (transform := _transform(measurement, request, tensor, total, coef)) != IDENTITY
    }
    changed = [
        tensor
        for tensor in measurement.tensors
        if tensor.name in transforms
        and _changes(tensor, transforms[tensor.name], measurement.loss_scale)
    ]
    return ClipPlan(
        clip_coef=coef,
        transforms=transforms,
        changed=frozenset(tensor.name for tensor in changed),
        tensors_changed=sum(tensor.unique is not None for tensor in changed),
        nonfinite_replaced=total.stats.nonfinite if request.nonfinite == "zero" else 0,
    )


def one_total(measurement: Measurement) -> Summary:
    """The total of tensors of one kind; TypeError for several kinds, which have none."""
    if measurement.total is None:
        raise TypeError("tensors of several kinds have no one total")
    return measurement.total


def _refuse_nonfinite(measurement: Measurement) -> None:
    bad = [tensor for tensor in measurement.tensors if tensor.stats.nonfinite]
    if not bad:
        return
    shown = [
        f"{tensor.name!r} ({', '.join(nonfinite_counts(tensor.stats))}, "
        f"first at {list(tensor.first_nonfinite or ())})"
        for tensor in bad
    ]
    raise NonFiniteError(
        f"{measurement.path}: not clipped: non-finite gradients in {first_of(shown, _MOST_NAMED)}",
        tuple(tensor.name for tensor in bad),
        hint="`nonfinite='zero'` replaces them by 0, `nonfinite='keep'` leaves them",
    )


def _transform(
    measurement: Measurement,
    request: ClipRequest,
    tensor: TensorMeasurement,
    total: Summary,
    coef: float | None,
) -> Transform:
    """The transform of `tensor`.

    Unless each tensor is clipped by its own norm all get the same, so that tensors that share
    elements never disagree.
    """
    factor, bound = 1.0, math.inf
    if request.clip_value is not None:
        if total.stats.max_abs > request.clip_value:
            bound = request.clip_value * measurement.loss_scale
    else:
        where = f"{measurement.path}: {tensor.name!r}"
        factor = _coef(request, tensor.stats, where) if coef is None else coef
    if not total.stats.nonfinite:
        return Transform(factor, bound)
    if request.nonfinite == "zero":
        return Transform(factor, bound, "zero")
    moves = factor != 1.0 or bound < math.inf
    return Transform(factor, bound, "keep") if moves else IDENTITY


def _changes(tensor: TensorMeasurement, transform: Transform, loss_scale: float) -> bool:
    """Whether the transform changes any element, not counting what scaling rounds back."""
    stats, bound, native = tensor.stats, transform.bound, tensor.spec.dtype.norm_dtype
    if native is not None:
        bound = native.round(bound)
    if stats.nonfinite and transform.nonfinite == "zero":
        return True
    scales = transform.coef != 1.0 and stats.numel > stats.zeros + stats.nonfinite
    return scales or stats.max_abs * loss_scale > bound


def _coef(request: ClipRequest, stats: TensorStats, where: str) -> float:
    """The factor to clip by; NormRangeError, beginning with `where`, if float64 has none."""
    norm = stats.finite_norm if request.total_norm is None else request.total_norm
    nonzero = stats.numel > stats.zeros + stats.nonfinite
    if math.isinf(norm + request.eps) or (norm == 0.0 and nonzero and request.total_norm is None):
        size = "larger" if norm else "smaller"
        raise NormRangeError(f"{where}: not clipped: its norm is {size} than any float64")
    max_norm = request.max_norm or 0.0
    coef = clip_coef(norm, max_norm, request.eps)
    if coef < _SMALLEST_COEF and max_norm > 0.0:
        problem = f"a norm of {norm:g} is too far from {max_norm:g} for one float64 factor"
        raise NormRangeError(f"{where}: not clipped: {problem}")
    return coef


def transform_conflict(path: str, names: Sequence[str]) -> UsageError:
    """The error for two names of one stored element that clipping would treat differently."""
    first, second = names
    return UsageError(
        f"{path}: {first!r} and {second!r} share stored elements, and clipping would change them "
        "for one and not, or differently, for the other",
        hint="choose both or neither, and do not clip them per tensor",
    )
