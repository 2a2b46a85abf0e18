"""Sums of products of two blocks of finite numbers, scaled so that none overflows or underflows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from gradtool.core.comparing.distance import Products
from gradtool.core.comparing.sums import NOTHING, ScaledSum, total
from gradtool.core.stats import power_scale
from gradtool.engine.buffers import BUFFERS
from gradtool.engine.numpy_backend.encodings import Float64
from gradtool.engine.numpy_backend.kernels import ROW

SCALE_BITS: Final = 24
"""Bits of the factor that residuals are made with: its products with float32 are then exact."""


class Sums(NamedTuple):
    """Sums over some numbers of two blocks, as `Products` has them, of numbers that were scaled."""

    aa: float
    bb: float
    ab: float
    dd: ScaledSum
    scale: float
    rr: float
    ra: float


def scale_of(peak: float) -> tuple[float, int]:
    """The power of two to divide numbers up to `peak` by before squaring, and its exponent."""
    scale = power_scale(peak, 2.0)
    return scale, math.frexp(scale)[1] - 1


def sums_of(
    a: Float64, b: Float64, d: Float64, peak: float, *, halved: bool, with_bb: bool
) -> Sums:
    """The sums over numbers, given their differences `d`, or halves of these, up to `peak`.

    That of b^2 is 0 unless `with_bb`, where it is known from elsewhere.
    """
    aa, ab = _dot(a, a), _dot(a, b)
    dd = NOTHING
    if peak:
        scale, exponent = scale_of(peak)
        if scale != 1.0:
            d = d / scale
        dd = ScaledSum(_dot(d, d), 2 * (exponent + halved))
    c = _short(ab / aa) if aa else 1.0
    r = np.multiply(a, c, out=BUFFERS.residuals.array(np.float64, len(a)))
    np.subtract(b, r, out=r)
    return Sums(aa, _dot(b, b) if with_bb else 0.0, ab, dd, c, _dot(r, r), _dot(r, a))


def together(sums: Sequence[Sums], ea: int, eb: int, bb: ScaledSum | None) -> Products:
    """All sums of a block, in which a and b were divided by powers of two with these exponents.

    `bb` is the sum of b^2 where it is known.
    """
    aa, ab = math.fsum(one.aa for one in sums), math.fsum(one.ab for one in sums)
    c = _short(ab / aa) if aa else 1.0
    rr, ra = [], []
    for one in sums:
        change = c - one.scale
        rr += [one.rr, -2.0 * change * one.ra, change * change * one.aa]
        ra += [one.ra, -change * one.aa]
    return Products(
        aa=ScaledSum(aa, 2 * ea),
        bb=ScaledSum(math.fsum(one.bb for one in sums), 2 * eb) if bb is None else bb,
        ab=ScaledSum(ab, ea + eb),
        dd=total(one.dd for one in sums),
        scale=c,
        scale_exponent=eb - ea,
        rr=ScaledSum(math.fsum(rr), 2 * eb),
        ra=ScaledSum(math.fsum(ra), ea + eb),
    )


def _short(factor: float) -> float:
    """A factor in `SCALE_BITS` bits."""
    mantissa, exponent = math.frexp(factor)
    return math.ldexp(round(math.ldexp(mantissa, SCALE_BITS)), exponent - SCALE_BITS)


def _dot(one: Float64, other: Float64) -> float:
    """The dot product, over short rows that are added exactly."""
    whole = len(one) - len(one) % ROW
    rows = np.vecdot(one[:whole].reshape(-1, ROW), other[:whole].reshape(-1, ROW))
    return math.fsum([*rows.tolist(), float(np.vecdot(one[whole:], other[whole:]))])
