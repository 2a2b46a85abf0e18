"""How logged norms follow from true ones: a multiple of them, or clipped to a bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, TypeAlias

from gradtool.core.judging.quotient import TOLERANCE
from gradtool.core.trends.steps import Step

Kind: TypeAlias = Literal["times", "log-clipped", "dumps-clipped"]

_LEAST_CLIPPED: Final = 2
"""Steps that have to lie at a bound for it to be one."""


@dataclass(frozen=True, slots=True)
class Relation:
    """What logged norms are to true ones.

    Attributes:
        kind: logged norms are `value` times the true ones; or these, clipped to `value`; or the
            true ones are the logged ones clipped to it.
        value: a factor, or a bound.
        agreeing: whether it is so, of each step in turn.
        bounded: steps at the bound.
    """

    kind: Kind
    value: float
    agreeing: tuple[bool, ...]
    bounded: int = 0

    @property
    def count(self) -> int:
        """Steps of which it is so."""
        return sum(self.agreeing)

    @property
    def is_whole(self) -> bool:
        """Whether it is so of all steps."""
        return all(self.agreeing)


def relation_of(steps: Sequence[Step]) -> Relation | None:
    """What the logged norms of most steps are to their true ones; None where nothing is.

    `steps` have both norms. A logged norm may be that of the trainer's dtype: then it is compared
    with what that would hold.
    """
    candidates = [*_multiples(steps), *_clipped(steps)]
    best = max(candidates, key=lambda one: one.count, default=None)
    return best if best is not None and 2 * best.count > len(steps) else None


def halves(steps: Sequence[Step]) -> tuple[int, float, float] | None:
    """Where one quotient gives way to another for good: a position, and both; None for no such.

    Either has to be there in two steps at least.
    """
    quotients = [step.log_quotient for step in steps]
    known = [one for one in quotients if one]
    if len(known) < len(quotients):
        return None
    changes = [at + 1 for at, (one, two) in enumerate(pairwise(known)) if not _agree(one, two)]
    if len(changes) != 1 or not 2 <= changes[0] <= len(known) - 2:
        return None
    at = changes[0]
    factors = _most_usual(known[:at]), _most_usual(known[at:])
    are_one = all(_agree(one, factors[n >= at]) for n, one in enumerate(known))
    return (at, *factors) if are_one else None


def _multiples(steps: Sequence[Step]) -> Iterator[Relation]:
    for norm in (_true, _native):
        quotients = [step.quotient_to(norm(step)) for step in steps]
        known = [one for one in quotients if one]
        factor = _most_usual(known) if known else 1.0
        agreeing = tuple(_is_times(step, factor, norm) for step in steps)
        yield Relation("times", factor, agreeing)


def _is_times(step: Step, factor: float, norm: Callable[[Step], float | None]) -> bool:
    logged, true = step.logged_norm, norm(step)
    if logged is None or true is None:
        return False
    if not (math.isfinite(logged) and math.isfinite(true)):
        return not (math.isfinite(logged) or math.isfinite(true))
    return _agree(logged, factor * true)


def _clipped(steps: Sequence[Step]) -> Iterator[Relation]:
    """Norms clipped to a bound, at which several of them lie and nothing lies above."""
    logged = [_or_nan(step.logged_norm) for step in steps]
    true = [_or_nan(_true(step)) for step in steps]
    sides: tuple[tuple[Kind, list[float], list[float]], ...] = (
        ("log-clipped", logged, true),
        ("dumps-clipped", true, logged),
    )
    for kind, clipped, whole in sides:
        pairs = list(zip(clipped, whole, strict=True))
        lower = [one for one, other in pairs if 0.0 < one < other < math.inf]
        if len(lower) < _LEAST_CLIPPED:
            continue
        bound = _most_usual(lower)
        agreeing = tuple(_is_clipped(one, other, bound) for one, other in pairs)
        bounded = [so and not _agree(*pair) for so, pair in zip(agreeing, pairs, strict=True)]
        if sum(bounded) >= _LEAST_CLIPPED:
            yield Relation(kind, bound, agreeing, sum(bounded))


def _is_clipped(clipped: float, whole: float, bound: float) -> bool:
    if not (math.isfinite(clipped) and math.isfinite(whole)):
        return not (math.isfinite(clipped) or math.isfinite(whole))
    return _agree(clipped, min(whole, bound))


def _or_nan(norm: float | None) -> float:
    return math.nan if norm is None else norm


def _true(step: Step) -> float | None:
    return None if step.total is None else step.total.norm


def _native(step: Step) -> float | None:
    return None if step.total is None else step.total.native_norm


def _most_usual(values: Sequence[float]) -> float:
    """The middle of the most values that lie within the tolerance of each other."""
    in_order = sorted(values)
    best, first = (0, 0), 0
    for last, value in enumerate(in_order):
        while not _agree(in_order[first], value):
            first += 1
        if last - first > best[1] - best[0]:
            best = first, last
    return in_order[sum(best) // 2]


def _agree(one: float, other: float) -> bool:
    return abs(one - other) <= TOLERANCE * other
