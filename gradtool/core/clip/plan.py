"""Planning a clip: which transform each measured tensor gets, or why clipping is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from gradtool.core.clip.factors import factor
from gradtool.core.clip.groups import ClipGroup, clip_groups
from gradtool.core.clipping import IDENTITY, TORCH_EPS, Transform, Units, clip_coef
from gradtool.core.figures import counted, nonfinite_counts
from gradtool.core.measurement import Measurement, Summary, TensorMeasurement
from gradtool.core.order.frontier import Frontier, of_all
from gradtool.errors import (
    NonFiniteError,
    UsageError,
)

NonFinite = Literal["error", "zero", "keep"]
"""What clipping does about NaN and Inf: refuse, replace them by 0, leave their bits alone."""

_MOST_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class ClipRequest:
    """How to clip; checked when it is made, with UsageError for what makes no sense.

    Attributes:
        max_norm: bound on the norm, at least 0; infinity changes nothing. With `groups`, on that of
            the tensors in none of them.
        clip_value: bound on each element's magnitude, at least 0.
        groups: globs over names, each with the bound on the norm of the tensors that it is the
            first to match.
        agc: bound on the norm of each unit, in norms of the weights that it is the gradient of.
        eps: what is added to the norm; with `agc` the least norm that weights are taken to have.
        total_norm: the norm to clip by, where these tensors are only a part of all.
        per_tensor: whether each tensor is clipped by its own norm, shared elements included.
        nonfinite: what to do about NaN and Inf.
    """

    max_norm: float | None = None
    clip_value: float | None = None
    groups: tuple[tuple[str, float], ...] = ()
    agc: float | None = None
    eps: float = TORCH_EPS
    total_norm: float | None = None
    per_tensor: bool = False
    nonfinite: NonFinite = "error"

    def __post_init__(self) -> None:
        by_norm = self.max_norm is not None or bool(self.groups)
        if by_norm + (self.clip_value is not None) + (self.agc is not None) != 1:
            raise UsageError("give one of `groups`, `agc`, `max_norm` or `clip_value`")
        clip_coef(0.0, 0.0 if self.max_norm is None else self.max_norm, self.eps)
        bounds = [("`clip_value`", self.clip_value), ("`agc`", self.agc)]
        bounds += [(f"`groups` {glob!r}", bound) for glob, bound in self.groups]
        for name, value in bounds:
            if value is not None and not value >= 0.0:
                raise UsageError(f"{name} must be at least 0, not {value}")
        if (self.max_norm is None or self.groups) and (
            self.per_tensor or self.total_norm is not None
        ):
            other = "clip_value" if self.clip_value is not None else "groups"
            other = other if self.agc is None else "agc"
            problem = "`per_tensor` and `total_norm` are for `max_norm`"
            raise UsageError(f"{problem}, not for `{other}`")
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
        groups: what is clipped together by a norm of its own, the rest last.
    """

    clip_coef: float | None
    transforms: dict[str, Transform]
    changed: frozenset[str]
    tensors_changed: int
    nonfinite_replaced: int
    groups: tuple[ClipGroup, ...] = ()


def plan_clip(
    measurement: Measurement,
    request: ClipRequest,
    group_of: Mapping[str, int] | None = None,
    units: Mapping[str, Units] | None = None,
) -> ClipPlan:
    """The plan to clip the tensors measured, all of one kind, as `request` says.

    `group_of` has the group of each tensor, as `core.clip.groups` finds them. `units` has the
    factors of units of those tensors for which they are not all 1, by name.

    Raises:
        NonFiniteError: NaN or Inf, where the request is to refuse them.
        NormRangeError: a norm, or a factor, that float64 cannot hold.
    """
    total = one_total(measurement)
    if request.nonfinite == "error":
        _refuse_nonfinite(measurement)
    coef, groups = None, tuple[ClipGroup, ...]()
    if group_of is not None:
        bounds, rest, eps = request.groups, request.max_norm, request.eps
        groups = clip_groups(measurement, group_of, bounds, rest, eps)
    elif request.max_norm is not None and not request.per_tensor:
        max_norm, eps, known = request.max_norm, request.eps, request.total_norm
        coef = factor(total.stats, max_norm, eps, measurement.path, known)
    factor_of = _factors(measurement, request, coef, groups, units or {})
    transforms = {
        tensor.name: transform
        for tensor in measurement.tensors
        if (transform := _transform(measurement, request, factor_of(tensor), total)) != IDENTITY
    }
    changed = [
        tensor
        for tensor in measurement.tensors
        if tensor.name in transforms
        and _changes(tensor, transforms[tensor.name], measurement.loss_scale)
    ]
    replaced = [one.unique for one in measurement.tensors if one.name in transforms]
    return ClipPlan(
        clip_coef=coef,
        transforms=transforms,
        changed=frozenset(tensor.name for tensor in changed),
        tensors_changed=sum(tensor.unique is not None for tensor in changed),
        nonfinite_replaced=sum(stats.nonfinite for stats in replaced if stats is not None)
        if request.nonfinite == "zero"
        else 0,
        groups=groups,
    )


def _factors(
    measurement: Measurement,
    request: ClipRequest,
    coef: float | None,
    groups: Sequence[ClipGroup],
    units: Mapping[str, Units],
) -> Callable[[TensorMeasurement], float | Units | None]:
    """What each tensor is multiplied by; None for one that stays as it is."""
    of_group = {
        name: group.clip_coef
        for group in groups
        if group.max_norm is not None
        for name in group.names
    }

    def factor_of(tensor: TensorMeasurement) -> float | Units | None:
        if request.groups:
            return of_group.get(tensor.name)
        if request.agc is not None:
            return units.get(tensor.name, 1.0)
        if request.max_norm is None or coef is not None:
            return 1.0 if coef is None else coef
        where = f"{measurement.path}: {tensor.name!r}"
        return factor(tensor.stats, request.max_norm, request.eps, where)

    return factor_of


def one_total(measurement: Measurement) -> Summary:
    """The total of tensors of one kind; TypeError for several kinds, which have none."""
    if measurement.total is None:
        raise TypeError("tensors of several kinds have no one total")
    return measurement.total


def _refuse_nonfinite(measurement: Measurement) -> None:
    bad = [tensor for tensor in measurement.in_order if tensor.stats.nonfinite]
    if not bad:
        return
    if len(bad) <= _MOST_NAMED:
        shown = (
            f"{tensor.name!r} ({', '.join(nonfinite_counts(tensor.stats))}, "
            f"first at {list(tensor.first_nonfinite or ())})"
            for tensor in bad
        )
        told = f"non-finite gradients in {', '.join(shown)}"
    elif len(bad) == len(measurement.tensors):
        told = f"all {counted(len(bad), 'gradient')} are not finite: {of_all(bad)}"
    else:
        told = f"{len(bad):,} of {counted(len(measurement.tensors), 'gradient')} are not finite; "
        told += f"in {measurement.order}: "
        told += Frontier(measurement.in_order, measurement.in_model_order).text
    raise NonFiniteError(
        f"{measurement.path}: not clipped: {told}",
        tuple(tensor.name for tensor in bad),
        hint="`nonfinite='zero'` replaces them by 0, `nonfinite='keep'` leaves them",
    )


def _transform(
    measurement: Measurement,
    request: ClipRequest,
    factor_: float | Units | None,
    total: Summary,
) -> Transform:
    """The transform of a tensor that is multiplied by `factor_`.

    Unless each tensor is clipped by its own norm all get the same, so that tensors that share
    elements never disagree.
    """
    if factor_ is None:
        return IDENTITY
    bound = math.inf
    if request.clip_value is not None and total.stats.max_abs > request.clip_value:
        bound = request.clip_value * measurement.loss_scale
    units = factor_ if isinstance(factor_, Units) else None
    coef = factor_ if not isinstance(factor_, Units) else 1.0
    if not total.stats.nonfinite:
        return Transform(coef, bound, units=units)
    if request.nonfinite == "zero":
        return Transform(coef, bound, "zero", units)
    moves = coef != 1.0 or bound < math.inf or units is not None
    return Transform(coef, bound, "keep", units) if moves else IDENTITY


def _changes(tensor: TensorMeasurement, transform: Transform, loss_scale: float) -> bool:
    """Whether the transform changes any element, not counting what scaling rounds back."""
    stats, bound, native = tensor.stats, transform.bound, tensor.spec.dtype.norm_dtype
    if native is not None:
        bound = native.round(bound)
    if stats.nonfinite and transform.nonfinite == "zero":
        return True
    scales = transform.coef != 1.0 or transform.units is not None
    scales = scales and stats.numel > stats.zeros + stats.nonfinite
    return scales or stats.max_abs * loss_scale > bound


def transform_conflict(path: str, names: Sequence[str]) -> UsageError:
    """The error for two names of one stored element that clipping would treat differently."""
    first, second = names
    return UsageError(
        f"{path}: {first!r} and {second!r} share stored elements, and clipping would change them "
        "for one and not, or differently, for the other",
        hint="choose both or neither, in one group, and do not clip them per tensor",
    )
