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
from gradtool.engine.buffers import BUFFERS
from gradtool.engine.numpy_backend.distances import distance
from gradtool.engine.numpy_backend.elements import Mask, steps_apart
from gradtool.engine.numpy_backend.encodings import Array, Float64
from gradtool.engine.numpy_backend.kernels import stats
from gradtool.engine.numpy_backend.operands import Numbers, are_equal
from gradtool.engine.numpy_backend.products import SCALE_BITS
from gradtool.engine.operands import Operand, Walk
from gradtool.engine.schedule import batches

_CACHED_NUMEL: Final = 1 << 16
"""Elements that are worked on at a time: a few arrays of so many stay in a core's cache."""

IN_ORDER: Final = Walk(lambda steps: steps.astype(np.int64), is_ascending=True)


class _Segments(NamedTuple):
    """Where tensors lie in a block: element `starts` and the numbers of elements."""

    starts: NDArray[np.intp]
    counts: NDArray[np.intp]

    def counted(self, holds: Mask) -> list[int]:
        """Of how many elements of each it is true."""
        if not holds.any():
            return [0] * len(self.counts)
        # In a type that holds `MOST_NUMEL`: NumPy adds wide ones several times slower.
        return list(np.add.reduceat(holds, self.starts, dtype=np.uint16).tolist())

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
        counts: elements of each tensor, at least 1 and at most `MOST_NUMEL`.
        tolerance: as for `distance`.
    """
    found, start = [], 0
    for batch in batches(counts, int, _CACHED_NUMEL):
        stop = start + sum(batch) * a.dtype.itemsize
        one, other = (side._replace(raw=side.raw[start:stop]) for side in (a, b))
        found += _of_batch(one, other, batch, tolerance)
        start = stop
    return found


def _of_batch(
    a: Operand, b: Operand, counts: Sequence[int], tolerance: Tolerance
) -> list[Distance]:
    if a.divisor != 1.0 or b.divisor != 1.0:
        pairs = [_pair(a, b, counts, n) for n in range(len(counts))]
        return [distance(*pair, IN_ORDER, tolerance) for pair in pairs]
    of_a = stats(a.raw, a.dtype, counts, 2.0)
    if are_equal(a.raw, b.raw):
        return [Distance.of_equals(one) for one in of_a]
    sizes = np.array(counts, np.intp)
    segments = _Segments(np.cumsum(sizes) - sizes, sizes)
    first, second = Numbers(a), Numbers(b)
    unlike = first.codes != second.codes
    of_b = stats(b.raw, b.dtype, counts, 2.0)
    has_zeros = any(one.zeros for one in (*of_a, *of_b))
    with np.errstate(all="ignore"):
        figures = _figures(first, second, unlike, segments, tolerance, has_zeros=has_zeros)
    found = []
    rows = zip(of_a, of_b, segments.counted(unlike), figures, strict=True)
    for n, (one, other, count, row) in enumerate(rows):
        if not count:
            found.append(Distance.of_equals(one))
        elif _is_plain(one) and _is_plain(other) and _is_safe(row.peak):
            found.append(row.distance(one, other, count))
        else:
            found.append(distance(*_pair(a, b, counts, n), IN_ORDER, tolerance))
    return found


def _pair(a: Operand, b: Operand, counts: Sequence[int], number: int) -> tuple[Operand, Operand]:
    """Both sides of one tensor."""
    start = sum(counts[:number]) * a.dtype.itemsize
    raw = slice(start, start + counts[number] * a.dtype.itemsize)
    return a._replace(raw=a.raw[raw]), b._replace(raw=b.raw[raw])


def _is_plain(one: TensorStats) -> bool:
    """Whether all elements are finite, and their squares need no scale."""
    return not one.nonfinite and _is_safe(one.max_abs)


def _is_safe(peak: float) -> bool:
    # Most are in this range, which is within that of `power_scale`.
    return 1e-50 < peak < 1e50 or (peak < np.inf and power_scale(peak, 2.0) == 1.0)


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
    first: Numbers,
    second: Numbers,
    unlike: Mask,
    segments: _Segments,
    tolerance: Tolerance,
    *,
    has_zeros: bool,
) -> list[_Row]:
    """The rows of all tensors; those of tensors that are not all finite mean nothing."""
    whole, buffers = slice(0, len(unlike)), (BUFFERS.first_values, BUFFERS.second_values)
    a, b = (
        side.values(whole, buffer.array(np.float64, len(unlike)))
        for side, buffer in zip((first, second), buffers, strict=True)
    )
    d = np.subtract(b, a, out=BUFFERS.differences.array(np.float64, len(a)))
    products = BUFFERS.residuals.array(np.float64, len(a))

    def summed(one: Float64, other: Float64) -> Float64:
        return segments.summed(np.multiply(one, other, out=products))

    aa, ab = summed(a, a), summed(a, b)
    c = _short(np.divide(ab, aa, out=np.ones_like(aa), where=aa != 0.0))
    r = np.repeat(c, segments.counts)
    r *= a
    np.subtract(b, r, out=r)
    sums = (ab, summed(d, d), c, summed(r, r), summed(r, a))
    sizes = np.abs(d, out=BUFFERS.sizes.array(np.float64, len(a)))
    peaks = np.maximum.reduceat(sizes, segments.starts)
    places = _firsts(sizes == np.repeat(peaks, segments.counts), segments)
    crossing, apart = steps_apart(first.codes, second.codes)
    none = np.zeros_like(unlike)
    zeros, opposite = none, none if crossing is None else crossing
    if has_zeros:
        zeros, opposite = (a == 0.0) & (b == 0.0), opposite & (a != 0.0) & (b != 0.0)
    columns = (
        zip(*(column.tolist() for column in sums), strict=True),
        peaks.tolist(),
        (places - segments.starts).tolist(),
        zip(a[places].tolist(), b[places].tolist(), strict=True),
        _samples(a, b, first.codes ^ second.codes, unlike, segments),
        segments.counted(opposite),
        np.maximum.reduceat(apart, segments.starts).tolist(),
        segments.counted(unlike & zeros),
        segments.counted(none if tolerance.is_exact else _outside(sizes, a, apart, tolerance)),
    )
    return list(map(_Row, *columns))


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
    counts = np.array(segments.counted(unlike), np.intp)
    kept = segments.starts
    if not ((counts > MOST_SAMPLES) & unlike[kept]).all():
        places = np.flatnonzero(unlike)
        is_kept = np.repeat(counts <= MOST_SAMPLES, counts)
        is_kept[(np.cumsum(counts) - counts)[counts > 0]] = True
        kept = places[is_kept]
    steps = kept - segments.starts[segments.of(kept)]
    columns: list[list[Any]] = [side.tolist() for side in (steps, a[kept], b[kept], bits[kept])]
    samples = map(Sample, *columns)
    for count in counts.tolist():
        yield tuple(itertools.islice(samples, count if count <= MOST_SAMPLES else 1))


def _outside(sizes: Float64, a: Float64, apart: Array, tolerance: Tolerance) -> Mask:
    """Which elements are beyond the tolerance."""
    beyond: Mask = np.zeros(len(sizes), np.bool_)
    if tolerance.is_elementwise:
        beyond |= ~(sizes <= np.abs(a) * (tolerance.rtol or 0.0) + (tolerance.atol or 0.0))
    if tolerance.ulps is not None:
        beyond |= apart > tolerance.ulps
    return beyond
