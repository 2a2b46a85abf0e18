"""How far apart two tensors are: counts and sums of one pass over both, which merge.

Sums are over the elements that are finite in both. For a complex tensor they are over real and
imaginary parts, as if it had twice as many real elements.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from gradtool.core.comparing.sums import (
    NOTHING,
    ScaledSum,
    cosine,
    product,
    quotient,
    ratio,
    root_ratio,
    sum_of_squares,
    total,
)
from gradtool.core.stats import TensorStats, merge

MOST_SAMPLES: Final = 16
"""Elements that differ of which all bits are kept; of more, of the first alone."""

Number = float | complex


class Products(NamedTuple):
    """Sums over elements a and b.

    The residual that the best scale leaves, `|b|^2 - <a, b>^2 / <a, a>`, cancels where b is nearly
    a multiple of a. So it is summed for a scale near the best one, and corrected by how much a is
    in what is left: as variances are merged (Chan, Golub, LeVeque, 1983).

    Attributes:
        aa, bb, ab, dd: sums of `a^2`, `b^2`, `a b`, `(b - a)^2`.
        scale: c, whose binary exponent is `scale_exponent`, so that it never overflows.
        rr: sum of `(b - c a)^2`.
        ra: sum of `(b - c a) a`.
    """

    aa: ScaledSum = NOTHING
    bb: ScaledSum = NOTHING
    ab: ScaledSum = NOTHING
    dd: ScaledSum = NOTHING
    scale: float = 1.0
    scale_exponent: int = 0
    rr: ScaledSum = NOTHING
    ra: ScaledSum = NOTHING

    def rescaled(self, scale: float, exponent: int) -> Products:
        """The same sums with another c: exact but for rounding, whatever that is."""
        if (scale, exponent) == (self.scale, self.scale_exponent):
            return self
        # r' = r - h a for the change h of c.
        change = total([ScaledSum(scale, exponent), ScaledSum(-self.scale, self.scale_exponent)])
        h, by = change
        rr = total(
            [self.rr, self.ra.times(-2.0 * h, by), self.aa.times(h, by).times(h, by)],
        )
        ra = total([self.ra, self.aa.times(-h, by)])
        return Products(self.aa, self.bb, self.ab, self.dd, scale, exponent, rr, ra)

    @property
    def residual(self) -> ScaledSum:
        """The sum of `(b - s a)^2` for the best scale s."""
        if not self.aa.value:
            return self.rr
        away = quotient(self.ra, self.aa)
        found = total([self.rr, self.ra.times(-away.value, away.exponent)])
        return found if found.value > 0.0 else NOTHING


def added(parts: Sequence[Products]) -> Products:
    """The sums of all parts together, for a c near their best scale."""
    if len(parts) == 1:
        return parts[0]
    aa, ab = total(part.aa for part in parts), total(part.ab for part in parts)
    best = quotient(ab, aa) if aa.value else ScaledSum(1.0)
    moved = [part.rescaled(best.value, best.exponent) for part in parts]
    return Products(
        aa=aa,
        bb=total(part.bb for part in parts),
        ab=ab,
        dd=total(part.dd for part in parts),
        scale=best.value,
        scale_exponent=best.exponent,
        rr=total(part.rr for part in moved),
        ra=total(part.ra for part in moved),
    )


class Sample(NamedTuple):
    """An element that differs: its C-order position, both numbers and the bits that differ.

    `flipped` is the exclusive or of both words as they are stored, of a complex number those of the
    imaginary part first; None where the dtypes differ.
    """

    position: int
    a: Number
    b: Number
    flipped: int | None


class Largest(NamedTuple):
    """The largest `|b - a|`: how much, the C-order position, and both numbers."""

    distance: float
    position: int
    a: Number
    b: Number


@dataclass(frozen=True, slots=True)
class Distance:
    """What there is to say of elements of two tensors at the same indices.

    Attributes:
        numel: how many elements each has.
        a, b: statistics of either side, for p = 2.
        products: over the elements that are finite in both.
        differing: elements that are not of the same bits; of two dtypes, not of the same value.
        samples: all of these in C order where they are `MOST_SAMPLES` or fewer, else the first.
        largest: None where no two finite elements are apart.
        opposite_signs: real elements that are finite, not 0, and of opposite signs.
        max_ulps: how many numbers of the dtype two finite elements are apart, at most; None of two
            dtypes.
        rounded_apart: elements that still differ when the wider dtype's are rounded to the narrower
            one; None of one dtype.
        zero_signs: elements that are 0.0 on one side and -0.0 on the other.
        same_nan: NaN of the same bits on both sides.
        outside: elements beyond the tolerance, if there is one.
    """

    numel: int
    a: TensorStats
    b: TensorStats
    products: Products
    differing: int = 0
    samples: tuple[Sample, ...] = ()
    largest: Largest | None = None
    opposite_signs: int = 0
    max_ulps: int | None = None
    rounded_apart: int | None = None
    zero_signs: int = 0
    same_nan: int = 0
    outside: int = 0

    @classmethod
    def of_equals(cls, stats: TensorStats) -> Distance:
        """That of elements of the same bits, which have these statistics."""
        squares = sum_of_squares(stats)
        return cls(
            numel=stats.numel,
            a=stats,
            b=stats,
            products=Products(squares, squares, squares),
            max_ulps=0,
            same_nan=stats.nan,
        )

    @property
    def rel_l2(self) -> float | None:
        """`|b - a| / |a|`; None where |a| is 0."""
        return root_ratio(self.products.dd, self.products.aa)

    @property
    def cosine(self) -> float | None:
        """Of the angle between both; None where one of them is 0."""
        sums = self.products
        return cosine(sums.ab, sums.aa, sums.bb)

    @property
    def norm_ratio(self) -> float | None:
        """`|b| / |a|`; None where |a| is 0."""
        return root_ratio(self.products.bb, self.products.aa)

    @property
    def best_scale(self) -> float | None:
        """The s for which `s a` is nearest to b; None where |a| is 0."""
        return ratio(self.products.ab, self.products.aa)

    @property
    def rel_l2_scaled(self) -> float | None:
        """`|b - s a| / |s a|` for the best scale s; None where that is 0."""
        sums = self.products
        # |s a|^2 is <a, b>^2 / <a, a>, be s beyond float64 or not.
        return root_ratio(product(sums.residual, sums.aa), product(sums.ab, sums.ab))


NO_ELEMENTS: Final = Distance(0, TensorStats(2.0), TensorStats(2.0), Products(), max_ulps=0)


def merged(parts: Sequence[Distance]) -> Distance:
    """What there is to say of all parts together, however grouped; of no parts, of no elements."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return NO_ELEMENTS
    differing = sum(part.differing for part in parts)
    return Distance(
        numel=sum(part.numel for part in parts),
        a=merge([part.a for part in parts], 2.0),
        b=merge([part.b for part in parts], 2.0),
        products=added([part.products for part in parts]),
        differing=differing,
        samples=kept_samples((one for part in parts for one in part.samples), differing),
        largest=largest_of([part.largest for part in parts if part.largest is not None]),
        opposite_signs=sum(part.opposite_signs for part in parts),
        max_ulps=_most([part.max_ulps for part in parts]),
        rounded_apart=_sum([part.rounded_apart for part in parts]),
        zero_signs=sum(part.zero_signs for part in parts),
        same_nan=sum(part.same_nan for part in parts),
        outside=sum(part.outside for part in parts),
    )


def kept_samples(found: Iterable[Sample], differing: int) -> tuple[Sample, ...]:
    """What is kept of samples: see `Distance`."""
    in_order = sorted(found, key=lambda sample: sample.position)
    return tuple(in_order if differing <= MOST_SAMPLES else in_order[:1])


def largest_of(found: Sequence[Largest]) -> Largest | None:
    """The largest of these distances, of equal ones the first in C order."""
    return min(found, key=lambda one: (-one.distance, one.position), default=None)


def _most(found: Sequence[int | None]) -> int | None:
    known = [one for one in found if one is not None]
    return max(known) if len(known) == len(found) else None


def _sum(found: Sequence[int | None]) -> int | None:
    known = [one for one in found if one is not None]
    return sum(known) if len(known) == len(found) else None
