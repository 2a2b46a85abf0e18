"""Sums of the values of equal indices, as float64 has them.

Each is within 1e-13 of the exact sum, relative to that, however much cancels, and its sign and
zeros are right: those that a plain sum may be further off are summed again without any error.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gradtool.storage.elements.entries import Float64

_TOLERANCE: Final = 1e-13
_UNIT: Final = 2.0**-53
_LARGEST: Final = Fraction(sys.float_info.max)


def group_sums(values: Float64, starts: NDArray[np.intp]) -> Float64:
    """The sums of consecutive rows of `values`, each group beginning at one of `starts`."""
    counts = np.diff(starts, append=len(values))
    with np.errstate(all="ignore"):
        sums: Float64 = np.add.reduceat(values, starts, axis=0)
        if counts.max() <= 2:
            return sums  # of two numbers the sum is rounded once
        sizes = np.add.reduceat(np.abs(values), starts, axis=0)
        bounds = (counts - 1)[:, None] * _UNIT * sizes
        is_sure = (bounds <= _TOLERANCE * np.abs(sums)) & np.isfinite(sums)
    is_sure |= (counts <= 2)[:, None]
    for group, column in np.argwhere(~is_sure):
        start = starts[group]
        sums[group, column] = exact_sum(values[start : start + counts[group], column].tolist())
    return sums


def exact_sum(values: Sequence[float]) -> float:
    """The sum, rounded once; by the rules of IEEE where some are not finite."""
    try:
        return math.fsum(values)
    except ValueError:  # infinities of both signs
        return math.nan
    except OverflowError:  # of a sum on the way, or of the result
        return _rounded(sum(map(Fraction, values), Fraction()))


class RunningSums:
    """Exact sums of columns that come in parts, each in a few numbers that stand for it."""

    def __init__(self, columns: int) -> None:
        self._parts: list[list[float]] = [[] for _ in range(columns)]
        self._beyond: list[float] = [0.0] * columns

    def add(self, values: Float64) -> None:
        """Add rows of values."""
        for column, parts in enumerate(self._parts):
            self._parts[column] = self._expansion(column, [*parts, *values[:, column].tolist()])

    def sums(self) -> list[float]:
        """The sums."""
        return [
            exact_sum([*parts, beyond])
            for parts, beyond in zip(self._parts, self._beyond, strict=True)
        ]

    def _expansion(self, column: int, terms: list[float]) -> list[float]:
        """The exact sum of the finite terms in few numbers; the others are added up apart."""
        finite = [term for term in terms if math.isfinite(term)]
        if len(finite) < len(terms):
            self._beyond[column] += sum(term for term in terms if not math.isfinite(term))
        rest, parts = finite, list[float]()
        try:
            while part := math.fsum(rest):
                parts.append(part)
                rest.append(-part)
        except OverflowError:
            return _pieces(sum(map(Fraction, finite), Fraction()))
        return parts


def _pieces(exact: Fraction) -> list[float]:
    """Numbers whose sum is `exact`, though that may lie beyond float64."""
    parts: list[float] = []
    while exact:
        part = max(min(exact, _LARGEST), -_LARGEST)
        parts.append(float(part))
        exact -= Fraction(parts[-1])
    return parts


def _rounded(exact: Fraction) -> float:
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf
