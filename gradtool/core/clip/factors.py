"""The factors to clip by, of norms that were measured; refused where float64 has none."""

from __future__ import annotations

import math
from typing import Final

from gradtool.core.clipping import clip_coef
from gradtool.core.stats import TensorStats
from gradtool.errors import NormRangeError

SMALLEST_COEF: Final = 2.0**-1034
"""A smaller float64 is subnormal and has fewer than twelve digits."""


def factor(
    stats: TensorStats, max_norm: float, eps: float, where: str, total_norm: float | None = None
) -> float:
    """The factor for elements of these statistics, or by `total_norm` where that is given.

    Raises NormRangeError, beginning with `where`, if float64 has none.
    """
    norm = stats.finite_norm if total_norm is None else total_norm
    nonzero = stats.numel > stats.zeros + stats.nonfinite
    if math.isinf(norm + eps) or (norm == 0.0 and nonzero and total_norm is None):
        size = "larger" if norm else "smaller"
        raise NormRangeError(f"{where}: not clipped: its norm is {size} than any float64")
    coef = clip_coef(norm, max_norm, eps)
    if coef < SMALLEST_COEF and max_norm > 0.0:
        problem = f"a norm of {norm:g} is too far from {max_norm:g} for one float64 factor"
        raise NormRangeError(f"{where}: not clipped: {problem}")
    return coef
