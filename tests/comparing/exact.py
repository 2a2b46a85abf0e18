"""How far apart tensors are, computed another way: fractions, one element at a time."""

from __future__ import annotations

import math
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from dumps import NUMPY_TYPES
from numpy.typing import NDArray

from gradtool.core.dtypes import DTYPES

_CONTEXT = Context(prec=80, Emax=10**15, Emin=-(10**15))


class Exact(NamedTuple):
    """The figures of two tensors, rounded once; positions are in C order."""

    rel_l2: float | None
    cosine: float | None
    norm_ratio: float | None
    best_scale: float | None
    rel_l2_scaled: float | None
    max_abs_diff: float
    max_at: set[int]
    opposite_signs: int
    differing: list[int]
    max_ulps: int | None
    zero_signs: int


def parts_of(codes: NDArray[np.uint8], dtype: str) -> NDArray[np.float64]:
    """The real numbers that the elements are made of, a row for each; codes are rows of bytes."""
    real = DTYPES[dtype].component or dtype
    rows = np.ascontiguousarray(codes.reshape(-1, codes.shape[-1]))
    with np.errstate(all="ignore"):
        values = rows.view(NUMPY_TYPES[real]).astype(np.float64)
    return values.reshape(len(rows), DTYPES[dtype].itemsize // DTYPES[real].itemsize)


def exact(first: NDArray[np.uint8], second: NDArray[np.uint8], dtypes: tuple[str, str]) -> Exact:
    """The figures of two tensors of these dtypes, given the bytes of their elements."""
    a, b = parts_of(first, dtypes[0]), parts_of(second, dtypes[1])
    finite = [n for n in range(len(a)) if np.isfinite(a[n]).all() and np.isfinite(b[n]).all()]
    pairs = [
        [(Fraction(float(x)), Fraction(float(y))) for x, y in zip(a[n], b[n], strict=True)]
        for n in finite
    ]
    numbers = [pair for element in pairs for pair in element]
    aa = sum((x * x for x, _ in numbers), Fraction(0))
    bb = sum((y * y for _, y in numbers), Fraction(0))
    ab = sum((x * y for x, y in numbers), Fraction(0))
    squares = [sum(((y - x) ** 2 for x, y in element), Fraction(0)) for element in pairs]
    residual = bb - ab * ab / aa if aa else Fraction(0)
    largest = max(squares, default=Fraction(0))
    is_real = a.shape[1] == 1
    return Exact(
        rel_l2=_root(sum(squares, Fraction(0)) / aa) if aa else None,
        cosine=math.copysign(_root(ab * ab / aa / bb), 1 if ab > 0 else -1) if aa and bb else None,
        norm_ratio=_root(bb / aa) if aa else None,
        best_scale=_float(ab / aa) if aa else None,
        rel_l2_scaled=_root(residual * aa / ab / ab) if aa and ab else None,
        max_abs_diff=_root(largest),
        max_at={n for n, square in zip(finite, squares, strict=True) if square == largest > 0},
        opposite_signs=sum(element[0][0] * element[0][1] < 0 for element in pairs) * is_real,
        differing=_differing(first, second, dtypes, a, b),
        max_ulps=_ulps(first, second, finite, dtypes[0]) if dtypes[0] == dtypes[1] else None,
        zero_signs=sum(
            not a[n].any() and not b[n].any() and (np.signbit(a[n]) != np.signbit(b[n])).any()
            for n in finite
        ),
    )


def _differing(
    first: NDArray[Any],
    second: NDArray[Any],
    dtypes: tuple[str, str],
    a: NDArray[np.float64],
    b: NDArray[np.float64],
) -> list[int]:
    if dtypes[0] == dtypes[1]:
        rows = (codes.reshape(-1, codes.shape[-1]) for codes in (first, second))
        unlike = np.not_equal(*rows).any(axis=1)
    else:
        unlike = ((a != b) | (np.signbit(a) != np.signbit(b))).any(axis=1)
    return [int(n) for n in np.flatnonzero(unlike)]


def _ulps(first: NDArray[Any], second: NDArray[Any], finite: list[int], dtype: str) -> int:
    """How many numbers of the dtype lie between, counted along the line of all of them."""
    size = DTYPES[DTYPES[dtype].component or dtype].itemsize
    parts = DTYPES[dtype].itemsize // size

    def places(codes: NDArray[Any]) -> list[list[int]]:
        rows = codes.reshape(-1, codes.shape[-1])[finite]
        words = rows.reshape(len(finite), parts, size)
        sign = 1 << size * 8 - 1
        found = [[int.from_bytes(bytes(part), "little") for part in row] for row in words]
        return [[-(w - sign) if w >= sign else w for w in row] for row in found]

    both = zip(places(first), places(second), strict=True)
    return max((abs(x - y) for one, two in both for x, y in zip(one, two, strict=True)), default=0)


def _root(square: Fraction) -> float:
    with localcontext(_CONTEXT):
        root = (Decimal(square.numerator) / Decimal(square.denominator)).sqrt()
        return float(root)


def _float(number: Fraction) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf
