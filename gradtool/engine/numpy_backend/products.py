"""Sums of products of two blocks of finite numbers, scaled so that none overflows or underflows."""

from __future__ import annotations

import itertools
import math
from typing import Final, NamedTuple

import numpy as np

from gradtool.core.comparing.distance import Products
from gradtool.core.comparing.sums import NOTHING, ScaledSum
from gradtool.core.stats import power_scale
from gradtool.engine.buffers import BUFFERS
from gradtool.engine.numpy_backend.encodings import Float64
from gradtool.engine.numpy_backend.kernels import ROW

SCALE_BITS: Final = 24
"""Bits of the factor that residuals are made with: its products with float32 are then exact."""


class Sums(NamedTuple):
    """Sums as `Products` has them, of numbers that were scaled: an array over parts of a block."""

    aa: Float64
    bb: Float64
    ab: Float64
    scale: Float64
    rr: Float64
    ra: Float64


class PartSums(NamedTuple):
    """Those of one part, and the sum of the squares of differences."""

    aa: float
    bb: float
    ab: float
    scale: float
    rr: float
    ra: float
    dd: ScaledSum


def scale_of(peak: float) -> tuple[float, int]:
    """The power of two to divide numbers up to `peak` by before squaring, and its exponent."""
    scale = power_scale(peak, 2.0)
    return scale, math.frexp(scale)[1] - 1


def sums_of(a: Float64, b: Float64, d: Float64, peak: float, *, halved: bool) -> PartSums:
    """The sums over numbers, given their differences `d`, or halves of these, up to `peak`."""
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
    return PartSums(aa, _dot(b, b), ab, c, _dot(r, r), _dot(r, a), dd)


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
    whole = len(one) - len(one) % ROW
    rows = np.vecdot(one[:whole].reshape(-1, ROW), other[:whole].reshape(-1, ROW))
    return math.fsum([*rows.tolist(), float(np.vecdot(one[whole:], other[whole:]))])
