"""Norms along a run that are far above those around them."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

MAD_OF_NORMAL: Final = 1.4826
"""The standard deviation of a normal distribution, in median absolute deviations."""

_ROUNDING: Final = 1e-12
"""How far off, relatively, norms are: one that is 3 times another in truth is so here."""

_HALVED_FROM: Final = 50
"""Norms of which each half has a median of its own; of fewer a half would say too little."""

_FORGETTING: Final = 0.97
_CLIPPED_FROM: Final = 2.5
_COLLECTED: Final = 25
"""ZClip's alpha, its z_thresh, and the steps from which it starts."""

FORGOTTEN: Final = 1_000
"""Norms after which its means hardly know how they began: 0.97 to the power of that is 6e-14."""

_EPS: Final = 1e-6
"""What ZClip adds to the standard deviation; of the mean here, so that scale is nothing."""


@dataclass(frozen=True, slots=True)
class Spike:
    """A norm that stands out.

    Attributes:
        position: among the norms.
        usual: the norm that it is compared with, a median or a mean.
        times: how many times that it is.
        z: how many standard deviations it is away, by the rule that found it.
        among: of how many norms `usual` is; None for a running mean.
    """

    position: int
    usual: float
    times: float
    z: float
    among: int | None = None


def above_median(
    norms: Sequence[float], *, window: int, factor: float, max_z: float, min_spread: float
) -> Iterator[Spike]:
    """Those of positive finite norms that are `factor` times the median around them, and unusual.

    That is the median of the `window` norms before each; of the first ones, which have fewer
    before them, that of the first `window` + 1 norms, themselves included. They have to stand out
    from the norms before them as well: at the beginning of training norms fall, and the first is
    none. Unusual is a logarithm `max_z` or more standard deviations from the median's. The
    deviation is 1.4826 times the median absolute one, of the norms that are below `factor` times
    the median, and at least `min_spread`. Of 50 norms or more it is that of the earlier half from
    its own median and of the later half from its own: a drift is no noise.
    """
    start = sorted(norms[: window + 1])
    before: list[float] = []  # the last norms before this one, in the order of their sizes
    for position, norm in enumerate(norms):
        if position:
            insort(before, norms[position - 1])
        if position > window:
            del before[bisect_left(before, norms[position - 1 - window])]
        is_early = position < window
        around = start if is_early else before
        usual = _median(around)
        is_large = stands_out(norm, around, factor)
        if is_large and is_early:
            is_large = position > 0 and stands_out(norm, before, factor)
        if not is_large:
            continue
        in_order = norms[: window + 1] if is_early else norms[position - window : position]
        z = _log_of(norm, usual) / max(_spread(in_order, usual, factor), min_spread)
        if z >= max_z:
            yield Spike(position, usual, norm / usual, z, len(around))


def stands_out(norm: float, ordered: Sequence[float], factor: float) -> bool:
    """Whether a norm is `factor` times the median of some in the order of their sizes."""
    return norm >= factor * _median(ordered) * (1.0 - _ROUNDING)


def _median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    low, high = ordered[middle - 1], ordered[middle]
    return low + 0.5 * (high - low)


def _log_of(norm: float, usual: float) -> float:
    """Of their quotient, which may be beyond any number."""
    return math.log(norm) - math.log(usual)


def _spread(norms: Sequence[float], usual: float, factor: float) -> float:
    """A standard deviation of logarithms which neither norms that stand out move, nor a drift."""
    limit = factor * usual * (1.0 - _ROUNDING)
    halved = len(norms) // 2 if len(norms) >= _HALVED_FROM else 0
    deviations: list[float] = []
    for part in (norms[:halved], norms[halved:]):
        own = _median(sorted(part)) if halved else usual
        others = (norm for norm in part if norm <= usual or norm < limit)
        deviations += (abs(_log_of(norm, own)) for norm in others)
    return MAD_OF_NORMAL * _median(sorted(deviations))


def above_running_mean(
    norms: Sequence[float], *, max_z: float, factor: float, left_out: frozenset[int]
) -> Iterator[Spike]:
    """Those of positive finite norms that are more than `max_z` by ZClip, and `factor` times.

    ZClip (Kumar et al. 2025, arXiv 2504.02507) keeps running means of norms and of their squared
    deviations, begins with those of 25 steps, and takes in a norm with a z above 2.5 as the one
    that it would clip it to. `left_out` has positions that are not among those that it begins with.
    """
    first = [norm for at, norm in enumerate(norms[:_COLLECTED]) if at not in left_out]
    if len(norms) <= _COLLECTED or not first:
        return
    mean = math.fsum(norm / len(first) for norm in first)
    variance = math.fsum((norm - mean) * (norm - mean) / len(first) for norm in first)
    for position, norm in enumerate(norms[_COLLECTED:], _COLLECTED):
        deviation = math.sqrt(variance)
        z = (norm - mean) / (deviation + _EPS * mean)
        if z > max_z and norm >= factor * mean * (1.0 - _ROUNDING):
            yield Spike(position, mean, norm / mean, z)
        taken = (
            mean + _CLIPPED_FROM * deviation / (z / _CLIPPED_FROM) if z > _CLIPPED_FROM else norm
        )
        mean = _FORGETTING * mean + (1.0 - _FORGETTING) * taken
        variance = _FORGETTING * variance + (1.0 - _FORGETTING) * (taken - mean) * (taken - mean)
