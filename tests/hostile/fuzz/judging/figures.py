"""A tensor's figures, computed one element at a time: what gradtool's are held against."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

_SUBNORMAL: Final = 64 * 5e-324
"""What norms of subnormal elements may differ by: half the smallest number for each of them."""


class Figures(NamedTuple):
    """Counts of non-finite elements, and the norm of the finite ones."""

    nan: int
    posinf: int
    neginf: int
    norm: float


def figures_of(array: np.ndarray, times: int = 1) -> Figures:
    """The figures of an array of numbers, each of whose elements counts `times` times.

    A complex element counts once: as NaN if either part is, else as +Inf.
    """
    if np.iscomplexobj(array):
        parts = np.ascontiguousarray(array, np.complex128).reshape(-1).view(np.float64)
        real, imaginary = parts[::2], parts[1::2]
        nan = np.isnan(real) | np.isnan(imaginary)
        infinite = (np.isinf(real) | np.isinf(imaginary)) & ~nan
        finite = np.stack((real, imaginary))[:, ~(nan | infinite)].ravel()
        counts = int(nan.sum()), int(infinite.sum()), 0
    else:
        values = array.astype(np.float64).reshape(-1)
        finite = values[np.isfinite(values)]
        counts = (
            int(np.isnan(values).sum()),
            int((values == math.inf).sum()),
            int((values == -math.inf).sum()),
        )
    return Figures(*(count * times for count in counts), _norm(finite) * math.sqrt(times))


def _norm(finite: np.ndarray) -> float:
    peak = float(np.abs(finite).max(initial=0.0))
    if peak == 0.0:
        return 0.0
    # A power of two, so that dividing by it is exact, and no square leaves float64's range.
    exponent = math.frexp(peak)[1]
    scaled = np.ldexp(finite, -exponent)
    root = math.sqrt(math.fsum(scaled * scaled))
    return root * math.ldexp(1.0, exponent) if exponent < 1024 else root * 2.0**1023 * 2.0


def agrees(found: Figures, true: Figures, *, is_signed: bool, relative: float = 1e-12) -> bool:
    """Whether two tensors' figures are those of the same elements.

    Signs of infinities do not count where `is_signed` is False.
    """
    same_counts = found[:3] == true[:3] if is_signed else _unsigned(found) == _unsigned(true)
    is_close = math.isclose(found.norm, true.norm, rel_tol=relative, abs_tol=_SUBNORMAL)
    return same_counts and is_close


def _unsigned(figures: Figures) -> tuple[int, int]:
    return figures.nan, figures.posinf + figures.neginf
