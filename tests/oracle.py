"""Norms computed another way: 60-digit decimals, one element at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Context, Decimal, localcontext

_CONTEXT = Context(prec=60, Emax=10**15, Emin=-(10**15))


def exact_norm(values: Iterable[float], p: float) -> float:
    """The norm of finite values, rounded once to float64; infinite beyond its range."""
    magnitudes = [abs(value) for value in values]
    nonzero = [value for value in magnitudes if value]
    if p == 0:
        return float(len(nonzero))
    if not nonzero:
        return 0.0
    if p == math.inf:
        return max(magnitudes)
    if p == -math.inf:
        return min(magnitudes)
    if p < 0 and len(nonzero) < len(magnitudes):
        return 0.0
    with localcontext(_CONTEXT):
        power = Decimal(p)
        total = sum((Decimal(value) ** power for value in nonzero), Decimal(0))
        return float(total ** (1 / power))


def close(found: float, true: float, relative: float = 1e-12) -> bool:
    """Whether `found` is `true` within the contract."""
    if math.isinf(true) or true == 0.0:
        return found == true
    return abs(found - true) <= relative * abs(true)
