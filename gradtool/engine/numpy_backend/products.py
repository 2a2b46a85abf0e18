"""Sums of products of two blocks of finite numbers, scaled so that none overflows or underflows."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from gradtool.core.comparing.distance import Products
from gradtool.core.comparing.sums import ScaledSum, total
from gradtool.core.stats import TensorStats, power_scale
from gradtool.engine.buffers import BUFFERS
from gradtool.engine.numpy_backend.encodings import Float64
from gradtool.engine.numpy_backend.kernels import ROW

SCALE_BITS: Final = 24
"""Bits of the factor that residuals are made with: its products with float32 are then exact."""


_LITTLE: Final = 1 / 16
"""Share up to which a term may be of the others that it is added to, for none to cancel."""

_MOST_SHARED: Final = 3 / 4
"""Share of r^2 that may be along a: less is left of it by a better factor, and fewer digits."""

_TRIES: Final = 3


class Sums(NamedTuple):
    """Sums as `Products` has them, of numbers that were scaled: an array over parts of a block."""

    aa: Float64
    bb: Float64
    ab: Float64
    scale: Float64
    rr: Float64
    ra: Float64


def scale_of(peak: float) -> tuple[float, int]:
    """The power of two to divide numbers up to `peak` by before squaring, and its exponent."""
    scale = power_scale(peak, 2.0)
    return scale, math.frexp(scale)[1] - 1


class PairSums:
    """The sums over a block, part after part.

    The factor c of a part is that of the part before, if it leaves little of b that a is in. Where
    b is `c a + r`, other sums follow from those of a^2, ra and r^2; they are made by themselves
    where they would cancel.

    Args:
        peaks: the largest magnitudes of both sides.
        is_short: numbers have so few bits that r is exact, or no further from it than by one
            rounding.
    """

    def __init__(self, peaks: tuple[float, float], *, is_short: bool) -> None:
        (self._fa, self._ea), (self._fb, self._eb) = map(scale_of, peaks)
        self._is_plain = self._fa == self._fb == 1.0
        self._is_short = is_short
        self._factor = 1.0
        self._rows: list[tuple[float, ...]] = []
        self._squares: list[ScaledSum] = []

    def add(
        self, a: Float64, b: Float64, d: Float64 | None, peak: float, *, halved: bool = False
    ) -> None:
        """Add numbers with their differences `d`, or halves of these, up to `peak`; None for 0."""
        if not self._is_plain:
            a, b = a / self._fa, b / self._fb
        aa = _dot(a, a)
        if d is None and self._fa == self._fb:
            self._rows.append((aa, aa, aa, 1.0, 0.0, 0.0))
            return
        is_plain = self._is_plain and not halved and scale_of(peak)[0] == 1.0
        c, rr, ra = self._residual(a, b, d if is_plain else None, aa)
        caa, cra = c * aa, c * ra
        ab = caa + ra if abs(ra) <= _LITTLE * abs(caa) else _dot(a, b)
        bb = c * caa + rr
        bb = bb + 2.0 * cra if abs(cra) <= _LITTLE * bb else _dot(b, b)
        self._rows.append((aa, bb, ab, c, rr, ra))
        if d is None or not peak:
            return
        h = c - 1.0
        dd = h * h * aa + rr
        if is_plain and (c == 1.0 or (self._is_short and abs(h * ra) <= _LITTLE * dd)):
            self._squares.append(ScaledSum(dd + 2.0 * h * ra))
        else:
            scale, exponent = scale_of(peak)
            d = d if scale == 1.0 else d / scale
            self._squares.append(ScaledSum(_dot(d, d), 2 * (exponent + halved)))

    def _residual(
        self, a: Float64, b: Float64, d: Float64 | None, aa: float
    ) -> tuple[float, float, float]:
        """A factor near the best one, and the sums of r^2 and ra for it; `d` is b - a if given."""
        for _ in range(_TRIES):
            c = self._factor
            if c == 1.0 and d is not None:
                r = d
            else:
                r = np.multiply(a, c, out=BUFFERS.residuals.array(np.float64, len(a)))
                np.subtract(b, r, out=r)
            rr, ra = _dot(r, r), _dot(r, a)
            away = ra / aa if aa else 0.0
            if away * ra <= _MOST_SHARED * rr or not math.isfinite(away):
                break
            self._factor = _short(c + away)
        return c, rr, ra

    def products(self) -> Products:
        """All sums together."""
        columns = np.array(self._rows).reshape(-1, 6).T
        return together(Sums(*columns), total(self._squares), self._ea, self._eb)

    def stats(self, a: TensorStats, b: TensorStats) -> tuple[TensorStats, TensorStats]:
        """Statistics for p = 2, given those for another p of all numbers that were added."""
        sums = (math.fsum(row[side] for row in self._rows) for side in (0, 1))
        a, b = (
            replace(of_side, norm_type=2.0, power_sum=power_sum, scale=scale)
            for of_side, power_sum, scale in zip((a, b), sums, (self._fa, self._fb), strict=True)
        )
        return a, b


def together(sums: Sums, dd: ScaledSum, ea: int, eb: int) -> Products:
    """All sums of a block, in which a and b were divided by powers of two with these exponents."""
    aa, ab = total_of(sums.aa), total_of(sums.ab)
    c = _short(ab / aa) if aa else 1.0
    change = c - sums.scale
    return Products(
        aa=ScaledSum(aa, 2 * ea),
        bb=ScaledSum(total_of(sums.bb), 2 * eb),
        ab=ScaledSum(ab, ea + eb),
        dd=dd,
        scale=c,
        scale_exponent=eb - ea,
        rr=ScaledSum(total_of(sums.rr, -2.0 * change * sums.ra, change**2 * sums.aa), 2 * eb),
        ra=ScaledSum(total_of(sums.ra, -change * sums.aa), ea + eb),
    )


def total_of(*terms: Float64) -> float:
    """All terms added exactly, and rounded once."""
    return math.fsum(itertools.chain.from_iterable(one.tolist() for one in terms))


def _short(factor: float) -> float:
    """A factor in `SCALE_BITS` bits."""
    mantissa, exponent = math.frexp(factor)
    return math.ldexp(round(math.ldexp(mantissa, SCALE_BITS)), exponent - SCALE_BITS)


def _dot(one: Float64, other: Float64) -> float:
    """The dot product, over short rows that are added exactly."""
    rest = len(one) % ROW
    whole = len(one) - rest
    rows = np.vecdot(one[:whole].reshape(-1, ROW), other[:whole].reshape(-1, ROW)).tolist()
    if rest:
        rows.append(float(np.vecdot(one[whole:], other[whole:])))
    return math.fsum(rows)
