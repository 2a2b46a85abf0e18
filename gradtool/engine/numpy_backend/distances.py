"""How far apart blocks of two tensors are, with NumPy: bits first, figures only where they differ.

Arithmetic is in float64 on as many elements at a time as a cache holds, and sums are made as in
`kernels`: dot products over short rows, added exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from gradtool.core.comparing.distance import (
    MOST_SAMPLES,
    Distance,
    Largest,
    Products,
    Sample,
    merged,
)
from gradtool.core.comparing.tolerance import Tolerance
from gradtool.core.stats import TensorStats
from gradtool.engine.buffers import BUFFERS
from gradtool.engine.numpy_backend.elements import Mask, Steps, Walk, numbers, samples
from gradtool.engine.numpy_backend.encodings import Array, Float64
from gradtool.engine.numpy_backend.kernels import ROW
from gradtool.engine.numpy_backend.operands import (
    Numbers,
    Operand,
    are_equal,
    narrower,
    stats_of,
)
from gradtool.engine.numpy_backend.products import Scaled, products, scale_of
from gradtool.engine.numpy_backend.transforms import narrowed

CACHED_NUMEL: Final = 16 * ROW
"""Numbers that are worked on at a time: a few arrays of so many stay in a core's cache."""


def distance(a: Operand, b: Operand, walk: Walk, tolerance: Tolerance) -> Distance:
    """What there is to say of two blocks of elements at the same indices, at least one.

    Both are real or both complex.
    """
    is_of_one_type = a.dtype == b.dtype and a.divisor == b.divisor
    if is_of_one_type and are_equal(a.raw, b.raw):
        return Distance.of_equals(stats_of(a))
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
        self.has_bits = self.has_one_type and a.divisor == b.divisor
        self.parts = 2 if a.dtype.component else 1
        self.numel = len(a.raw) // a.dtype.itemsize
        self.a_stats, self.b_stats = stats_of(a), stats_of(b)
        self.a, self.b = Numbers(a), Numbers(b)
        self.narrow = narrower(self.a.real, self.b.real)
        self.scales = [scale_of(one.max_abs) for one in (self.a_stats, self.b_stats)]
        self.sampled = 0

    def distance(self) -> Distance:
        """What there is to say of them."""
        # NaN and Inf are what the data may hold, and no mistake to warn about.
        with np.errstate(all="ignore"):
            found = merged(list(self._chunks()))
        return replace(found, a=self.a_stats, b=self.b_stats)

    def _chunks(self) -> Iterator[Distance]:
        step = CACHED_NUMEL // self.parts
        for start in range(0, self.numel, step):
            yield self._chunk(start, min(start + step, self.numel))

    def _chunk(self, start: int, stop: int) -> Distance:
        part = slice(start * self.parts, stop * self.parts)
        count = part.stop - part.start
        b = self.b.values(part, BUFFERS.second_values.array(np.float64, count))
        a = self.a.values(part, BUFFERS.first_values.array(np.float64, count))
        unlike = self._unlike(part, a, b)
        differing = int(np.count_nonzero(unlike))
        finite = self._finite(a, b)
        codes = self._codes(part, a, b)
        samples = self._samples(start, unlike, a, b, codes) if differing else ()
        zero_signs = self._zero_signs(unlike, a, b, differing)
        same_nan = outside = 0
        chunk = _Chunk(a, b, start, None)
        if finite is not None:
            same_nan = int(np.count_nonzero(self._any(np.isnan(a)) & ~unlike))
            outside = self._disagreeing(a, b, unlike, finite)
            kept = np.repeat(finite, self.parts) if self.parts > 1 else finite
            chunk = _Chunk(a[kept], b[kept], start, np.flatnonzero(finite) + start)
            codes = codes[0][kept], codes[1][kept]
        found = self._finite_distance(chunk, codes, differing)
        return replace(
            found,
            numel=stop - start,
            differing=differing,
            samples=samples,
            zero_signs=zero_signs,
            same_nan=same_nan,
            outside=found.outside + outside,
        )

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
        if not (self.a_stats.nonfinite or self.b_stats.nonfinite):
            return None
        bad = self._any(~(np.isfinite(a) & np.isfinite(b)))
        return ~bad if bad.any() else None

    def _codes(self, part: slice, a: Float64, b: Float64) -> tuple[Array, Array]:
        """Both sides as codes of one type, the narrower one of two."""
        if self.has_bits:
            return self.a.codes[part], self.b.codes[part]
        word = f"u{self.narrow.itemsize}"
        return narrowed(a, self.narrow).view(word), narrowed(b, self.narrow).view(word)

    def _samples(
        self, start: int, unlike: Mask, a: Float64, b: Float64, codes: tuple[Array, Array]
    ) -> tuple[Sample, ...]:
        """The first elements that differ; none where those of chunks before are enough."""
        if self.walk.is_ascending and self.sampled >= MOST_SAMPLES:
            return ()
        found = samples(self.walk, start, unlike, (a, b), codes if self.has_bits else None)
        self.sampled += len(found)
        return found

    def _zero_signs(self, unlike: Mask, a: Float64, b: Float64, differing: int) -> int:
        """How many elements are zeros of two signs."""
        if not (differing and self.a_stats.zeros and self.b_stats.zeros):
            return 0
        nonzero = self._any((a != 0.0) | (b != 0.0))
        return int(np.count_nonzero(unlike & ~nonzero))

    def _disagreeing(self, a: Float64, b: Float64, unlike: Mask, finite: Mask) -> int:
        """How many elements that are not finite do not agree by the tolerance."""
        if self.tolerance.is_exact:
            return 0
        apart = a != b
        if self.tolerance.equal_nan:
            apart &= ~(np.isnan(a) & np.isnan(b))
        # NaN is unlike itself as a number, and may be of the same bits.
        return int(np.count_nonzero(self._any(apart) & unlike & ~finite))

    def _finite_distance(
        self, chunk: _Chunk, codes: tuple[Array, Array], differing: int
    ) -> Distance:
        """What there is to say of elements that are all finite."""
        a, b = chunk.a, chunk.b
        nothing = TensorStats(2.0)
        ulps = 0 if self.has_bits else None
        rounded = None if self.has_one_type else 0
        if not len(a):
            return Distance(0, nothing, nothing, Products(), max_ulps=ulps, rounded_apart=rounded)
        d = np.subtract(b, a, out=BUFFERS.differences.array(np.float64, len(a)))
        sizes, halved = self._sizes(d, a, b)
        largest = self._largest(chunk, sizes, halved=halved)
        size = 0.0 if largest is None else largest.distance / (2.0 if halved else 1.0)
        opposite, apart = self._steps_apart(codes[0], codes[1], a, b)
        if self.has_bits:
            ulps = int(apart.max())
        if not self.has_one_type:
            rounded = int(np.count_nonzero(self._any(codes[0] != codes[1])))
        outside = 0
        if not self.tolerance.is_exact and differing:
            outside = self._outside(sizes * 2.0 if halved else sizes, a, apart)
        return Distance(
            numel=0,
            a=nothing,
            b=nothing,
            products=products(
                Scaled(a, self.scales[0]), Scaled(b, self.scales[1]), d, size, halved=halved
            ),
            largest=largest,
            opposite_signs=opposite,
            max_ulps=ulps,
            rounded_apart=rounded,
            outside=outside,
        )

    def _sizes(self, d: Float64, a: Float64, b: Float64) -> tuple[Float64, bool]:
        """The distance of each two elements, or half of it where float64 does not hold all.

        `d` becomes half of what it is then too.
        """
        sizes = self._moduli(d)
        if sizes.max() < math.inf:
            return sizes, False
        np.subtract(b * 0.5, a * 0.5, out=d)
        return self._moduli(d), True

    def _moduli(self, values: Float64) -> Float64:
        if self.parts == 2:
            return np.hypot(values[::2], values[1::2])
        return np.abs(values, out=BUFFERS.sizes.array(np.float64, len(values)))

    def _largest(self, chunk: _Chunk, sizes: Float64, *, halved: bool) -> Largest | None:
        index = int(sizes.argmax())
        size = float(sizes[index])
        if not size:
            return None
        candidates = np.array([index])
        if not self.walk.is_ascending:
            candidates = np.flatnonzero(sizes == size)
        positions = self.walk.positions(chunk.step(candidates))
        first = int(positions.argmin())
        (a,), (b,) = (
            numbers(side, candidates[first : first + 1], self.parts) for side in (chunk.a, chunk.b)
        )
        return Largest(size * 2.0 if halved else size, int(positions[first]), a, b)

    def _steps_apart(
        self, first: Array, second: Array, a: Float64, b: Float64
    ) -> tuple[int, Array]:
        """How many elements are of opposite signs, and by how many numbers each two are apart."""
        bits = first.dtype.itemsize * 8
        crossing = (first ^ second) >> (bits - 1) != 0
        if not crossing.any():
            opposite = 0 if self.has_bits else self._opposite(np.signbit(a) != np.signbit(b), a, b)
            return opposite, np.maximum(first, second) - np.minimum(first, second)
        magnitude = first.dtype.type((1 << bits - 1) - 1)
        one, other = first & magnitude, second & magnitude
        near = np.maximum(one, other) - np.minimum(one, other)
        apart = np.where(crossing, one + other, near)
        signs = crossing if self.has_bits else np.signbit(a) != np.signbit(b)
        return self._opposite(signs, a, b), apart

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
