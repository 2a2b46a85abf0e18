"""Distances of many small tensors at once: a call for all of them costs as much as one for each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradtool.core.comparing.distance import (
    MOST_SAMPLES,
    Distance,
    Largest,
    Products,
    Sample,
)
from gradtool.core.comparing.sums import ScaledSum, sum_of_squares
from gradtool.core.comparing.tolerance import Tolerance
from gradtool.core.stats import TensorStats, power_scale
from gradtool.engine.numpy_backend.distances import distance
from gradtool.engine.numpy_backend.elements import Mask, steps_apart
from gradtool.engine.numpy_backend.encodings import Array, Float64
from gradtool.engine.numpy_backend.kernels import stats
from gradtool.engine.numpy_backend.operands import Numbers
from gradtool.engine.numpy_backend.products import SCALE_BITS
from gradtool.engine.operands import Operand, Walk

IN_ORDER: Final = Walk(lambda steps: steps.astype(np.int64), is_ascending=True)


class _Segments(NamedTuple):
    """Where tensors lie in a block: element `starts` and the numbers of elements."""

    starts: NDArray[np.intp]
    counts: NDArray[np.intp]

    def counted(self, holds: Mask) -> list[int]:
        """Of how many elements of each it is true."""
        return list(np.add.reduceat(holds, self.starts, dtype=np.intp).tolist())

    def summed(self, values: Float64) -> Float64:
        """The sum over each."""
        return np.add.reduceat(values, self.starts)

    def of(self, places: NDArray[np.intp]) -> NDArray[np.intp]:
        """In which one each element is."""
        return np.searchsorted(self.starts, places, side="right") - 1


def distances_of_many(
    a: Operand, b: Operand, counts: Sequence[int], tolerance: Tolerance
) -> list[Distance]:
    """The distance of each two tensors of blocks in which they lie one after another.

    Args:
        a: the elements of all first tensors, of a real type.
        b: those of the second ones, alike.
        counts: elements of each tensor, at least 1, and so few that sums in any order will do.
        tolerance: as for `distance`.
    """
    if a.divisor != 1.0 or b.divisor != 1.0:
        return [distance(*pair, IN_ORDER, tolerance) for pair in _pairs(a, b, counts)]
    sizes = np.array(counts, np.intp)
    segments = _Segments(np.cumsum(sizes) - sizes, sizes)
    first, second = Numbers(a), Numbers(b)
    unlike = first.codes != second.codes
    differing = segments.counted(unlike)
    of_a = stats(a.raw, a.dtype, counts, 2.0)
    if not any(differing):
        return [Distance.of_equals(one) for one in of_a]
    of_b = stats(b.raw, b.dtype, counts, 2.0)
    with np.errstate(all="ignore"):
        figures = [*_figures(first, second, unlike, segments, tolerance)]
    found = []
    rows = zip(of_a, of_b, differing, figures, _pairs(a, b, counts), strict=True)
    for one, other, count, row, operands in rows:
        if not count:
            found.append(Distance.of_equals(one))
        elif _is_plain(one) and _is_plain(other) and _is_safe(row.peak):
            found.append(row.distance(one, other, count))
        else:
            found.append(distance(*operands, IN_ORDER, tolerance))
    return found


def _pairs(a: Operand, b: Operand, counts: Sequence[int]) -> Iterator[tuple[Operand, Operand]]:
    """Both sides of each tensor."""
    bounds = itertools.accumulate((count * a.dtype.itemsize for count in counts), initial=0)
    for start, end in itertools.pairwise(bounds):
        yield a._replace(raw=a.raw[start:end]), b._replace(raw=b.raw[start:end])


def _is_plain(one: TensorStats) -> bool:
    """Whether all elements are finite, and their squares need no scale."""
    return not one.nonfinite and _is_safe(one.max_abs)


def _is_safe(peak: float) -> bool:
    return peak < np.inf and power_scale(peak, 2.0) == 1.0


class _Row(NamedTuple):
    """What there is to say of two tensors that differ, and whose elements are all finite."""

    sums: tuple[float, ...]
    peak: float
    place: int
    values: tuple[float, float]
    samples: tuple[Sample, ...]
    opposite: int
    ulps: int
    zero_signs: int
    outside: int

    def distance(self, a: TensorStats, b: TensorStats, differing: int) -> Distance:
        """The same, with the statistics of both."""
        ab, dd, c, rr, ra = self.sums
        return Distance(
            numel=a.numel,
            a=a,
            b=b,
            products=Products(
                sum_of_squares(a),
                sum_of_squares(b),
                ScaledSum(ab),
                ScaledSum(dd),
                c,
                0,
                ScaledSum(rr),
                ScaledSum(ra),
            ),
            differing=differing,
            samples=self.samples,
            largest=Largest(self.peak, self.place, *self.values) if self.peak else None,
            opposite_signs=self.opposite,
            max_ulps=self.ulps,
            zero_signs=self.zero_signs,
            outside=self.outside,
        )


def _figures(
    first: Numbers, second: Numbers, unlike: Mask, segments: _Segments, tolerance: Tolerance
) -> Iterator[_Row]:
    """The rows of all tensors; those of tensors that are not all finite mean nothing."""
    whole = slice(0, len(unlike))
    a, b = (side.values(whole, np.empty(len(unlike))) for side in (first, second))
    d = b - a
    aa, ab = segments.summed(a * a), segments.summed(a * b)
    c = _short(np.divide(ab, aa, out=np.ones_like(aa), where=aa != 0.0))
    r = b - np.repeat(c, segments.counts) * a
    sums = (ab, segments.summed(d * d), c, segments.summed(r * r), segments.summed(r * a))
    sizes = np.abs(d)
    peaks = np.maximum.reduceat(sizes, segments.starts)
    places = _firsts(sizes == np.repeat(peaks, segments.counts), segments)
    crossing, apart = steps_apart(first.codes, second.codes)
    opposite = np.zeros_like(unlike) if crossing is None else crossing
    is_zero = (a == 0.0, b == 0.0)
    yield from map(
        _Row,
        zip(*(column.tolist() for column in sums), strict=True),
        peaks.tolist(),
        (places - segments.starts).tolist(),
        zip(a[places].tolist(), b[places].tolist(), strict=True),
        _samples(a, b, first.codes ^ second.codes, unlike, segments),
        segments.counted(opposite & ~(is_zero[0] | is_zero[1])),
        np.maximum.reduceat(apart, segments.starts).tolist(),
        segments.counted(unlike & is_zero[0] & is_zero[1]),
        segments.counted(_outside(sizes, a, apart, tolerance)),
    )


def _short(factors: Float64) -> Float64:
    """Factors in few bits, as `products` has them."""
    mantissas, exponents = np.frexp(factors)
    found: Float64 = np.ldexp(np.round(np.ldexp(mantissas, SCALE_BITS)), exponents - SCALE_BITS)
    return found


def _firsts(holds: Mask, segments: _Segments) -> NDArray[np.intp]:
    """The first element of each tensor for which it is true; its first where there is none."""
    found = segments.starts.copy()
    places = np.flatnonzero(holds)
    owners = segments.of(places)
    is_first = np.diff(owners, prepend=-1) != 0
    found[owners[is_first]] = places[is_first]
    return found


def _samples(
    a: Float64, b: Float64, bits: Array, unlike: Mask, segments: _Segments
) -> Iterator[tuple[Sample, ...]]:
    """All elements that differ of each tensor, or the first where there are many."""
    places = np.flatnonzero(unlike)
    bounds = np.searchsorted(places, np.append(segments.starts, len(unlike)))
    for start, (low, high) in zip(
        segments.starts.tolist(), itertools.pairwise(bounds.tolist()), strict=True
    ):
        kept = places[low : high if high - low <= MOST_SAMPLES else low + 1]
        columns: list[list[Any]] = [(kept - start).tolist(), a[kept].tolist(), b[kept].tolist()]
        yield tuple(map(Sample, *columns, bits[kept].tolist()))


def _outside(sizes: Float64, a: Float64, apart: Array, tolerance: Tolerance) -> Mask:
    """Which elements are beyond the tolerance."""
    beyond: Mask = np.zeros(len(sizes), np.bool_)
    if tolerance.is_elementwise:
        beyond |= ~(sizes <= np.abs(a) * (tolerance.rtol or 0.0) + (tolerance.atol or 0.0))
    if tolerance.ulps is not None:
        beyond |= apart > tolerance.ulps
    return beyond
