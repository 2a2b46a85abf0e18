"""Sums of products of two blocks of finite numbers, scaled so that none overflows or underflows."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from gradtool.core.comparing.distance import Products
from gradtool.core.comparing.sums import ScaledSum
from gradtool.core.stats import power_scale
from gradtool.engine.buffers import BUFFERS
from gradtool.engine.numpy_backend.encodings import Float64
from gradtool.engine.numpy_backend.kernels import ROW

SCALE_BITS: Final = 24
"""Bits of the factor that residuals are made with: its products with float32 are then exact."""


class Scaled(NamedTuple):
    """Numbers, and the power of two to divide them by, with its exponent."""

    values: Float64
    scale: tuple[float, int]

    @property
    def divided(self) -> Float64:
        """The numbers divided by it."""
        return self.values if self.scale[0] == 1.0 else self.values / self.scale[0]


def scale_of(peak: float) -> tuple[float, int]:
    """The power of two to divide numbers up to `peak` by before squaring, and its exponent."""
    scale = power_scale(peak, 2.0)
    return scale, math.frexp(scale)[1] - 1


def products(first: Scaled, second: Scaled, d: Float64, peak: float, *, halved: bool) -> Products:
    """The sums over two blocks, given their differences `d`, or halves of these, up to `peak`."""
    (a, ea), (b, eb) = ((side.divided, side.scale[1]) for side in (first, second))
    aa, ab = _dot(a, a), _dot(a, b)
    dd = ScaledSum()
    if peak:
        scale, ed = scale_of(peak)
        d = Scaled(d, (scale, ed)).divided
        dd = ScaledSum(_dot(d, d), 2 * (ed + halved))
    c = _short(ab / aa) if aa else 1.0
    r = np.multiply(a, c, out=BUFFERS.residuals.array(np.float64, len(a)))
    np.subtract(b, r, out=r)
    return Products(
        aa=ScaledSum(aa, 2 * ea),
        bb=ScaledSum(_dot(b, b), 2 * eb),
        ab=ScaledSum(ab, ea + eb),
        dd=dd,
        scale=c,
        scale_exponent=eb - ea,
        rr=ScaledSum(_dot(r, r), 2 * eb),
        ra=ScaledSum(_dot(r, a), ea + eb),
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
