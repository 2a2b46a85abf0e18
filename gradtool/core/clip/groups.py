"""Tensors in groups, of which each is clipped by its own norm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gradtool.core.clip.factors import factor
from gradtool.core.measurement import Measurement, Summary, TensorMeasurement, summarize
from gradtool.core.names import BareNames, name_filter, nearest_names
from gradtool.errors import UsageError

REST = -1
"""The group of the tensors that no pattern matches."""


@dataclass(frozen=True, slots=True)
class ClipGroup:
    """Tensors that are clipped together.

    Attributes:
        pattern: the glob that their names match, and no earlier one; None for the rest.
        max_norm: bound on their norm; None where they stay as they are.
        clip_coef: the factor of all of them.
        names: their names.
    """

    pattern: str | None
    max_norm: float | None
    clip_coef: float
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """What clipping does to a group; attributes as those of `ClipGroup`.

    `tensors` are stored ones, each counted once; `norm_after` is None where nothing was written.
    """

    pattern: str | None
    max_norm: float | None
    clip_coef: float
    norm_before: float
    norm_after: float | None
    tensors: int


def group_of_each(
    path: str, names: Sequence[str], patterns: Sequence[str], bare: BareNames
) -> dict[str, int]:
    """The position of each name's group among `patterns`, the first that matches it; else REST.

    Raises UsageError for a pattern that matches no name at all, naming the nearest ones.
    """
    filters = [name_filter([pattern], (), bare) for pattern in patterns]
    for pattern, matches in zip(patterns, filters, strict=True):
        if not any(map(matches, names)):
            problem = f"the group {pattern!r} matches no tensor to clip"
            raise UsageError(f"{path}: {problem}", hint=nearest_names(pattern, names))
    return {
        name: next((number for number, matches in enumerate(filters) if matches(name)), REST)
        for name in names
    }


def clip_groups(
    measurement: Measurement,
    group_of: Mapping[str, int],
    groups: Sequence[tuple[str, float]],
    rest: float | None,
    eps: float,
) -> tuple[ClipGroup, ...]:
    """The factor of each group, the rest last, which stays as it is unless it has a bound too.

    Raises NormRangeError where float64 has no factor for one.
    """
    found = []
    for number, (pattern, max_norm) in [*enumerate(groups), (REST, (None, rest))]:
        tensors = [one for one in measurement.tensors if group_of[one.name] == number]
        coef = 1.0
        if max_norm is not None:
            named = "the rest" if pattern is None else f"the group {pattern!r}"
            stats = _summary(tensors, measurement.norm_type).stats
            coef = factor(stats, max_norm, eps, f"{measurement.path}: {named}")
        found.append(ClipGroup(pattern, max_norm, coef, frozenset(one.name for one in tensors)))
    return tuple(found)


def notes_on_groups(groups: Sequence[ClipGroup]) -> Iterator[str]:
    """A sentence for each group that has no tensor, as earlier ones match all that it does."""
    for group in groups:
        if group.pattern is not None and not group.names:
            yield f"the group {group.pattern!r} has no tensor: earlier ones match them first"


def group_figures(group: ClipGroup, before: Measurement, after: Measurement | None) -> GroupFigures:
    """The norms of a group before and after."""
    summary = _summary(_members(before, group), before.norm_type)
    norm_after = None
    if after is not None:
        norm_after = _summary(_members(after, group), after.norm_type).norm
    return GroupFigures(
        pattern=group.pattern,
        max_norm=group.max_norm,
        clip_coef=group.clip_coef,
        norm_before=summary.norm,
        norm_after=norm_after,
        tensors=summary.tensors,
    )


def _members(measurement: Measurement, group: ClipGroup) -> list[TensorMeasurement]:
    return [tensor for tensor in measurement.tensors if tensor.name in group.names]


def _summary(tensors: Iterable[TensorMeasurement], norm_type: float) -> Summary:
    return summarize("", None, [*tensors], (), norm_type, lambda tensor: tensor.unique)
