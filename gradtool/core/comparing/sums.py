"""Sums of products that neither overflow nor underflow, and their quotients."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

from gradtool.core.stats import TensorStats

_MOST_EXPONENT: Final = 4096
"""A binary exponent beyond all quotients that float64 holds."""


class ScaledSum(NamedTuple):
    """A sum, which is `value * 2**exponent`."""

    value: float = 0.0
    exponent: int = 0

    def times(self, factor: float, exponent: int = 0) -> ScaledSum:
        """The sum times `factor * 2**exponent`."""
        return ScaledSum(self.value * factor, self.exponent + exponent)


NOTHING: Final = ScaledSum()


def total(sums: Iterable[ScaledSum]) -> ScaledSum:
    """All sums together, rounded once."""
    terms = [one for one in sums if one.value]
    if not terms:
        return NOTHING
    top = max(math.frexp(value)[1] + exponent for value, exponent in terms)
    return ScaledSum(math.fsum(_shifted(one, -top) for one in terms), top)


def sum_of_squares(stats: TensorStats) -> ScaledSum:
    """The sum of squares of the finite elements, given their statistics for p = 2."""
    mantissa, exponent = math.frexp(stats.scale)
    return ScaledSum(stats.power_sum * mantissa * mantissa, 2 * exponent)


def product(one: ScaledSum, other: ScaledSum) -> ScaledSum:
    """The product of two sums."""
    (first, up), (second, by) = map(_normal, (one, other))
    return ScaledSum(first * second, up + by)


def quotient(numerator: ScaledSum, denominator: ScaledSum) -> ScaledSum:
    """The quotient of two sums, of which the second is not 0."""
    (top, up), (bottom, down) = map(_normal, (numerator, denominator))
    return ScaledSum(top / bottom, up - down)


def ratio(numerator: ScaledSum, denominator: ScaledSum) -> float | None:
    """The quotient, infinite or 0 where float64 does not hold it; None for division by 0."""
    if not denominator.value:
        return None
    return _shifted(quotient(numerator, denominator), 0)


def root_ratio(numerator: ScaledSum, denominator: ScaledSum) -> float | None:
    """The root of the quotient of two sums of squares, as `ratio`."""
    if not denominator.value:
        return None
    (top, up), (bottom, down) = map(_normal, (numerator, denominator))
    exponent = up - down
    odd = exponent % 2
    root = math.sqrt(math.ldexp(max(top, 0.0) / bottom, odd))
    return _shifted(ScaledSum(root, (exponent - odd) // 2), 0)


def cosine(dot: ScaledSum, first: ScaledSum, second: ScaledSum) -> float | None:
    """`dot / sqrt(first * second)`, between -1 and 1; None for division by 0."""
    if not first.value or not second.value:
        return None
    (ab, shift), (aa, one), (bb, other) = map(_normal, (dot, first, second))
    odd = (one + other) % 2
    root = math.sqrt(math.ldexp(aa * bb, odd))
    found = _shifted(ScaledSum(ab / root, shift - (one + other - odd) // 2), 0)
    return max(-1.0, min(found, 1.0))


def _normal(one: ScaledSum) -> ScaledSum:
    mantissa, exponent = math.frexp(one.value)
    return ScaledSum(mantissa, one.exponent + exponent)


def _shifted(one: ScaledSum, by: int) -> float:
    """A sum times `2**by` as a float: infinite or 0 where that does not hold it."""
    exponent = max(-_MOST_EXPONENT, min(one.exponent + by, _MOST_EXPONENT))
    try:
        return math.ldexp(one.value, exponent)
    except OverflowError:
        return math.copysign(math.inf, one.value)
