"""How far apart blocks of two tensors are, with NumPy: bits first, figures only where they differ.

Arithmetic is in float64 on as many elements at a time as a cache holds, and sums are made as in
`kernels`: dot products over short rows, added exactly.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from gradtool.core.comparing.distance import (
    MOST_SAMPLES,
    Distance,
    Largest,
    Sample,
    kept_samples,
    largest_of,
)
from gradtool.core.comparing.tolerance import Tolerance
from gradtool.engine.buffers import BUFFERS
from gradtool.engine.numpy_backend.elements import Mask, Steps, numbers, samples, steps_apart
from gradtool.engine.numpy_backend.encodings import Array, Float64
from gradtool.engine.numpy_backend.kernels import ROW
from gradtool.engine.numpy_backend.operands import Numbers, are_equal, stats_of
from gradtool.engine.numpy_backend.products import PairSums
from gradtool.engine.numpy_backend.transforms import narrowed
from gradtool.engine.operands import Operand, Walk, have_one_code, narrower

CACHED_NUMEL: Final = 32 * ROW
"""Numbers worked on at a time: so few that caches hold them, so many that Python's lock is free."""


def distance(a: Operand, b: Operand, walk: Walk, tolerance: Tolerance) -> Distance:
    """What there is to say of two blocks of elements at the same indices, at least one.

    Both are real or both complex.
    """
    if have_one_code(a, b) and are_equal(a.raw, b.raw):
        found = stats_of(a)
        # The statistics of complex numbers beyond float64 hold no sum of squares.
        if found.max_abs < math.inf:
            return Distance.of_equals(found)
    return _Comparing(a, b, walk, tolerance).distance()


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Elements that are finite on both sides, or all, and how far they are into the block.

    `a` and `b` hold the values, `steps` where each element was, None for one after another from
    `start` on.
    """

    a: Float64
    b: Float64
    start: int
    steps: Steps | None

    def step(self, index: Steps) -> Steps:
        """How far into the block these elements are."""
        return index + self.start if self.steps is None else self.steps[index]


class _Comparing:
    """Two blocks that are compared."""

    def __init__(self, a: Operand, b: Operand, walk: Walk, tolerance: Tolerance) -> None:
        self.walk, self.tolerance = walk, tolerance
        self.has_one_type = a.dtype == b.dtype
        self.has_bits = have_one_code(a, b)
        self.parts = 2 if a.dtype.component else 1
        self.numel = a.numel
        self.is_short = all(side.real.bits <= 32 and side.divisor == 1.0 for side in (a, b))
        self.a_stats, self.b_stats = stats_of(a, math.inf), stats_of(b, math.inf)
        self.has_bad = bool(self.a_stats.nonfinite or self.b_stats.nonfinite)
        if self.has_bad:  # what is summed here is less than what is finite on one side
            self.a_stats, self.b_stats = stats_of(a), stats_of(b)
        self.a, self.b = Numbers(a), Numbers(b)
        self.narrow = narrower(self.a.real, self.b.real)
        self.differing = self.opposite = self.zero_signs = self.same_nan = self.outside = 0
        self.ulps = 0 if self.has_bits else None
        self.rounded_apart = None if self.has_one_type else 0
        self.samples: list[Sample] = []
        self.largest: list[Largest] = []
        self.most = 0.0

    def distance(self) -> Distance:
        """What there is to say of them."""
        # NaN and Inf are what the data may hold, and no mistake to warn about.
        with np.errstate(all="ignore"):
            self.sums = PairSums(self._peaks(), is_short=self.is_short)
            for start, stop in self._bounds():
                self._add(start, stop)
        of_a, of_b = self.a_stats, self.b_stats
        if not self.has_bad:
            of_a, of_b = self.sums.stats(of_a, of_b)
        return Distance(
            numel=self.numel,
            a=of_a,
            b=of_b,
            products=self.sums.products(),
            differing=self.differing,
            samples=kept_samples(self.samples, self.differing),
            largest=largest_of(self.largest),
            opposite_signs=self.opposite,
            max_ulps=self.ulps,
            rounded_apart=self.rounded_apart,
            zero_signs=self.zero_signs,
            same_nan=self.same_nan,
            outside=self.outside,
        )

    def _bounds(self) -> Iterator[tuple[int, int]]:
        """The steps at which parts of the block begin and end."""
        step = CACHED_NUMEL // self.parts
        for start in range(0, self.numel, step):
            yield start, min(start + step, self.numel)

    def _values(self, start: int, stop: int) -> tuple[slice, Float64, Float64]:
        """The numbers of a part, which are valid until this is called again."""
        part = slice(start * self.parts, stop * self.parts)
        count = part.stop - part.start
        b = self.b.values(part, BUFFERS.second_values.array(np.float64, count))
        return part, self.a.values(part, BUFFERS.first_values.array(np.float64, count)), b

    def _peaks(self) -> tuple[float, float]:
        """The largest magnitude on each side among the elements that are finite on both."""
        if not self.has_bad:
            # A complex element may be larger than any float64, which none of its parts is.
            largest = sys.float_info.max
            return min(self.a_stats.max_abs, largest), min(self.b_stats.max_abs, largest)
        peaks = [(0.0, 0.0)]
        for start, stop in self._bounds():
            _, a, b = self._values(start, stop)
            finite = self._finite(a, b)
            kept = slice(None) if finite is None else np.repeat(finite, self.parts)
            peaks.append((np.abs(a[kept]).max(initial=0.0), np.abs(b[kept]).max(initial=0.0)))
        of_a, of_b = zip(*peaks, strict=True)
        return float(max(of_a)), float(max(of_b))

    def _add(self, start: int, stop: int) -> None:
        """Add what there is to say of the elements from step `start` to `stop` of the block."""
        part, a, b = self._values(start, stop)
        unlike = self._unlike(part, a, b)
        differing = int(np.count_nonzero(unlike))
        self.differing += differing
        codes = self._codes(part, a, b)
        if differing:
            self._add_samples(start, unlike, a, b, codes)
            self._add_zero_signs(unlike, a, b)
        if self.rounded_apart is not None:
            self.rounded_apart += self._rounded_apart(codes, a, b)
        finite = self._finite(a, b)
        chunk = _Chunk(a, b, start, None)
        if finite is not None:
            self.same_nan += int(np.count_nonzero(self._any(np.isnan(a)) & ~unlike))
            self.outside += self._disagreeing(a, b, unlike, finite)
            kept = np.repeat(finite, self.parts) if self.parts > 1 else finite
            chunk = _Chunk(a[kept], b[kept], start, np.flatnonzero(finite) + start)
            codes = codes[0][kept], codes[1][kept]
        if len(chunk.a):
            self._add_finite(chunk, codes, differing)

    def _any(self, of_parts: Mask) -> Mask:
        """What holds of elements of which it holds for a part."""
        if self.parts == 1:
            return of_parts
        whole: Mask = np.logical_or(of_parts[::2], of_parts[1::2])
        return whole

    def _unlike(self, part: slice, a: Float64, b: Float64) -> Mask:
        """Which elements differ, in their bits or, of two types, in their numbers."""
        if self.has_bits:
            return self._any(self.a.codes[part] != self.b.codes[part])
        return self._any((a != b) | (np.signbit(a) != np.signbit(b)))

    def _finite(self, a: Float64, b: Float64) -> Mask | None:
        """Which elements are finite on both sides; None for all."""
        if not self.has_bad:
            return None
        bad = self._any(~(np.isfinite(a) & np.isfinite(b)))
        return ~bad if bad.any() else None

    def _codes(self, part: slice, a: Float64, b: Float64) -> tuple[Array, Array]:
        """Both sides as codes of one type, the narrower one of two."""
        if self.has_bits:
            return self.a.codes[part], self.b.codes[part]
        word = f"u{self.narrow.itemsize}"
        return narrowed(a, self.narrow).view(word), narrowed(b, self.narrow).view(word)

    def _add_samples(
        self, start: int, unlike: Mask, a: Float64, b: Float64, codes: tuple[Array, Array]
    ) -> None:
        """Add the first elements that differ, unless those of chunks before are enough."""
        if self.walk.is_ascending and self.differing > MOST_SAMPLES and self.samples:
            return
        bits = codes if self.has_bits else None
        self.samples += samples(
            self.walk, start, unlike, (a, b), bits, only_first=self.differing > MOST_SAMPLES
        )

    def _add_zero_signs(self, unlike: Mask, a: Float64, b: Float64) -> None:
        """Add how many elements are zeros of two signs."""
        if self.a_stats.zeros and self.b_stats.zeros:
            nonzero = self._any((a != 0.0) | (b != 0.0))
            self.zero_signs += int(np.count_nonzero(unlike & ~nonzero))

    def _rounded_apart(self, codes: tuple[Array, Array], a: Float64, b: Float64) -> int:
        """How many elements differ once they are rounded; a NaN is one whatever its bits."""
        unlike = codes[0] != codes[1]
        if self.has_bad:
            unlike &= ~(np.isnan(a) & np.isnan(b))
        return int(np.count_nonzero(self._any(unlike)))

    def _disagreeing(self, a: Float64, b: Float64, unlike: Mask, finite: Mask) -> int:
        """How many elements that are not finite do not agree by the tolerance."""
        if self.tolerance.is_exact:
            return 0
        apart = a != b
        if self.tolerance.equal_nan:
            apart &= ~(np.isnan(a) & np.isnan(b))
        # NaN is unlike itself as a number, and may be of the same bits.
        return int(np.count_nonzero(self._any(apart) & unlike & ~finite))

    def _add_finite(self, chunk: _Chunk, codes: tuple[Array, Array], differing: int) -> None:
        """Add what there is to say of elements that are all finite."""
        a, b = chunk.a, chunk.b
        if not differing:
            self.sums.add(a, b, None, 0.0)
            return
        d = np.subtract(b, a, out=BUFFERS.differences.array(np.float64, len(a)))
        size = self._peak(d)
        halved = size == math.inf  # where float64 does not hold all
        if halved:
            np.subtract(b * 0.5, a * 0.5, out=d)
            size = self._peak(d)
        if size and size * (1 + halved) >= self.most:
            self.most = size * (1 + halved)
            self.largest.append(self._largest(chunk, d, size, halved=halved))
        crossing, apart = steps_apart(codes[0], codes[1])
        if not self.has_bits:
            crossing = np.signbit(a) != np.signbit(b)
        if crossing is not None:
            self.opposite += self._opposite(crossing, a, b)
        if self.ulps is not None:
            self.ulps = max(self.ulps, int(apart.max()))
        if not self.tolerance.is_exact:
            sizes = self._moduli(d)
            self.outside += self._outside(sizes * 2.0 if halved else sizes, a, apart)
        self.sums.add(a, b, d, min(size, sys.float_info.max), halved=halved)

    def _peak(self, d: Float64) -> float:
        """The largest distance of two elements."""
        if self.parts == 2:
            return float(self._moduli(d).max())
        return max(float(d.max()), -float(d.min()))

    def _moduli(self, values: Float64) -> Float64:
        if self.parts == 2:
            return np.hypot(values[::2], values[1::2])
        return np.abs(values, out=BUFFERS.sizes.array(np.float64, len(values)))

    def _largest(self, chunk: _Chunk, d: Float64, size: float, *, halved: bool) -> Largest:
        """The largest of the distances, which is `size`."""
        if self.walk.is_ascending and self.parts == 1:
            candidates = np.array([min(n for n in (d.argmax(), d.argmin()) if abs(d[n]) == size)])
        else:
            candidates = np.flatnonzero(self._moduli(d) == size)
        positions = self.walk.positions(chunk.step(candidates))
        first = int(positions.argmin())
        (a,), (b,) = (
            numbers(side, candidates[first : first + 1], self.parts) for side in (chunk.a, chunk.b)
        )
        return Largest(size * 2.0 if halved else size, int(positions[first]), a, b)

    def _opposite(self, crossing: Mask, a: Float64, b: Float64) -> int:
        if self.parts == 2:
            return 0
        if self.a_stats.zeros or self.b_stats.zeros:
            crossing = crossing & (a != 0.0) & (b != 0.0)
        return int(np.count_nonzero(crossing))

    def _outside(self, sizes: Float64, a: Float64, apart: Array) -> int:
        """How many finite elements are beyond the tolerance."""
        tolerance, beyond = self.tolerance, np.zeros(len(sizes), np.bool_)
        if tolerance.is_elementwise:
            bound = np.abs(a) if self.parts == 1 else np.hypot(a[::2], a[1::2])
            bound *= tolerance.rtol or 0.0
            bound += tolerance.atol or 0.0
            beyond |= ~(sizes <= bound)
        if tolerance.ulps is not None:
            beyond |= self._any(apart > tolerance.ulps)
        return int(np.count_nonzero(beyond))
