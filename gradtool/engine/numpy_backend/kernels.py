"""The CPU backend: statistics of blocks of elements with NumPy.

Sums of squares are float64 dot products over rows of `ROW` elements, added exactly. A row is
short enough that no BLAS splits it over threads, so the digits do not depend on their number,
and that even an unvectorised sum of it is within 5e-13 of the truth.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gradtool.core.dtypes import DTYPES, DType
from gradtool.core.stats import TensorStats, merge, power_scale
from gradtool.engine.buffers import BUFFERS
from gradtool.engine.numpy_backend.encodings import (
    F64,
    Array,
    Encoding,
    Float64,
    real_words,
    sizes_of,
)

ROW: Final = 4096

PIECE: Final = 32 * ROW
"""Elements of a long segment that are widened and added at a time: what a cache holds."""

FEW: Final = 400
"""Elements that NumPy goes through without giving Python's lock away."""


def stats(
    raw: Array, dtype: DType, counts: Sequence[int], norm_type: float, *, big_endian: bool = False
) -> list[TensorStats]:
    """Statistics of the segments that lie one after another in `raw`.

    Args:
        raw: bytes (uint8) of all segments, aligned to the element size.
        dtype: their type.
        counts: elements in each segment, none of them 0.
        norm_type: p.
        big_endian: byte order of the elements.

    `first_nonfinite` counts from the start of its segment.
    """
    # NaN, Inf and numbers too small to count are what the data may hold, not mistakes: they
    # are told apart by their bits, and floating-point warnings about them would say nothing.
    with np.errstate(all="ignore"):
        if dtype.component is None:
            words, encoding = real_words(raw, dtype, big_endian=big_endian)
            return _segments(words, encoding, counts, norm_type)
        part = DTYPES[dtype.component]
        sizes, beyond = _magnitudes(raw, part, big_endian=big_endian)
        if beyond is None:
            return _segments(sizes.view(F64.word), sizes_of(part), counts, norm_type)
        bounds = np.cumsum([0, *counts])
        return [
            _segment_beyond(sizes[start:end], beyond[start:end], norm_type)
            for start, end in itertools.pairwise(bounds.tolist())
        ]


def nonfinite_positions(raw: Array, dtype: DType, *, big_endian: bool = False) -> Array:
    """Positions of the NaN and Inf among the elements in `raw`."""
    part = dtype if dtype.component is None else DTYPES[dtype.component]
    words, encoding = real_words(raw, part, big_endian=big_endian)
    bad = (words & encoding.magnitude) >= encoding.infinity
    return np.flatnonzero(bad if part is dtype else bad.reshape(-1, 2).any(axis=1))


def _segments(
    words: Array, encoding: Encoding, counts: Sequence[int], p: float
) -> list[TensorStats]:
    magnitudes = BUFFERS.magnitudes.array(encoding.word, len(words))
    np.bitwise_and(words, encoding.magnitude, out=magnitudes)
    if len(counts) > 1 and p == 2.0:
        return _many_squares(words, magnitudes, encoding, counts)
    found, start = [], 0
    for count in counts:
        part = slice(start, start + count)
        found.append(_segment(words[part], magnitudes[part], encoding, p))
        start += count
    return found


def _segment(words: Array, magnitudes: Array, encoding: Encoding, p: float) -> TensorStats:
    peak = int(magnitudes.max())
    if peak >= encoding.infinity:
        return _nonfinite_segment(words, magnitudes, encoding, p)
    count = len(magnitudes)
    zeros, subnormals = _count_small(magnitudes, encoding)
    max_abs = encoding.value(peak)
    min_abs = math.inf
    if p < 0.0 and zeros < count:
        nonzero = magnitudes if zeros == 0 else magnitudes[magnitudes > 0]
        min_abs = encoding.value(int(nonzero.min()))
        words = words if zeros == 0 else words[magnitudes > 0]
    scale = power_scale(max_abs if p > 0.0 else min_abs, p)
    if zeros == count or math.isinf(p):
        power_sum = 0.0
    elif p == 0.0:
        power_sum = float(count - zeros)
    else:
        power_sum = _power_sum(words, encoding, p, scale)
    return TensorStats(
        p, count, power_sum, scale, max_abs, min_abs, zeros=zeros, subnormals=subnormals
    )


def _count_small(magnitudes: Array, encoding: Encoding) -> tuple[int, int]:
    """How many are 0, and how many others are below the smallest normal number."""
    # Where there is none the smallest one tells, in half the time that counting takes. Where
    # there are many the first few elements tell, in none.
    limit = encoding.smallest_normal
    if int(magnitudes[:FEW].min()) >= limit and int(magnitudes.min()) >= limit:
        return 0, 0
    zeros = len(magnitudes) - int(np.count_nonzero(magnitudes))
    return zeros, int(np.count_nonzero(_below_normal(magnitudes, encoding))) - zeros


def _below_normal(magnitudes: Array, encoding: Encoding) -> NDArray[np.bool_]:
    """Which are 0 or subnormal."""
    below = BUFFERS.below.array(np.bool_, len(magnitudes))
    np.less(magnitudes, encoding.smallest_normal, out=below)
    return below


def _nonfinite_segment(
    words: Array, magnitudes: Array, encoding: Encoding, p: float
) -> TensorStats:
    """The finite elements' statistics, with the others counted and the first one located."""
    finite = magnitudes < encoding.infinity
    others = TensorStats(p)
    if finite.any():
        others = _segment(words[finite], magnitudes[finite], encoding, p)
    bad = encoding.decode(words[~finite])
    return replace(
        others,
        numel=len(words),
        nan=int(np.count_nonzero(np.isnan(bad))),
        posinf=int(np.count_nonzero(bad == math.inf)),
        neginf=int(np.count_nonzero(bad == -math.inf)),
        first_nonfinite=int(np.argmin(finite)),
    )


def _many_squares(
    words: Array, magnitudes: Array, encoding: Encoding, counts: Sequence[int]
) -> list[TensorStats]:
    """The common case of p = 2 over many small tensors, without a call for each of them."""
    ends = np.cumsum(counts, dtype=np.intp)
    starts = ends - counts
    largest = encoding.decode(np.maximum.reduceat(magnitudes, starts)).tolist()
    if not _are_safe_to_square(largest):
        return [
            _segment(words[start:end], magnitudes[start:end], encoding, 2.0)
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        ]
    squares = BUFFERS.values.array(np.float64, len(words))  # where most dtypes are decoded
    np.square(encoding.decode(words), out=squares)
    sums = np.add.reduceat(squares, starts)
    zeros = small = np.zeros(len(counts), np.uint8)
    smallest = int(magnitudes.min())
    if smallest < encoding.smallest_normal:
        # In the narrowest type that holds them: NumPy adds wide ones several times slower.
        narrow = np.min_scalar_type(max(counts))
        small = np.add.reduceat(_below_normal(magnitudes, encoding), starts, dtype=narrow)
        if smallest == 0:
            zeros = np.add.reduceat(magnitudes == 0, starts, dtype=narrow)
    columns = (sums.tolist(), largest, zeros.tolist(), (small - zeros).tolist())
    return [
        TensorStats(2.0, count, power_sum, 1.0, peak, zeros=none, subnormals=few)
        for count, power_sum, peak, none, few in zip(counts, *columns, strict=True)
    ]


def _are_safe_to_square(peaks: list[float]) -> bool:
    """Whether all are finite and need no scale; those between two that need none do not either."""
    nonzero = [peak for peak in peaks if peak]
    extremes = (min(nonzero, default=1.0), max(peaks))
    return all(map(math.isfinite, peaks)) and {power_scale(x, 2.0) for x in extremes} == {1.0}


def _power_sum(words: Array, encoding: Encoding, p: float, scale: float) -> float:
    """Sum of |v / scale|^p over finite values, for p < 0 over non-zero ones."""
    sums: list[float] = []
    for start in range(0, len(words), PIECE):
        values = encoding.decode(words[start : start + PIECE])
        # Terms that underflow are too small to count; for p < 0 a quotient may overflow, and
        # its power is then 0.
        sums += _row_sums(values if scale == 1.0 else values / scale, p)
    return math.fsum(sums)


def _row_sums(values: Float64, p: float) -> list[float]:
    if p == 2.0:
        return _rows_then_rest(values, lambda rows: np.vecdot(rows, rows))
    powers = np.abs(values)
    if p != 1.0:
        np.power(powers, p, out=powers)
    return _rows_then_rest(powers, lambda rows: rows.sum(axis=-1))


def _rows_then_rest(values: Float64, reduce: Any) -> list[float]:
    whole = len(values) - len(values) % ROW
    sums: list[float] = reduce(values[:whole].reshape(-1, ROW)).tolist()
    if whole < len(values):
        sums.append(float(reduce(values[whole:])))
    return sums


def _magnitudes(
    raw: Array, part: DType, *, big_endian: bool
) -> tuple[Float64, NDArray[np.bool_] | None]:
    """|z| of complex elements: NaN where either part is NaN, else infinite where either is.

    C's `hypot` would call a NaN beside an Inf infinite. Second, which of them are finite and
    beyond float64, as only complex128 can be, and given as their halves; None for none.
    """
    words, encoding = real_words(raw, part, big_endian=big_endian)
    parts = encoding.decode(words)
    real, imaginary = parts[::2], parts[1::2]
    sizes = np.hypot(real, imaginary)
    beyond: NDArray[np.bool_] = np.isinf(sizes) & np.isfinite(real) & np.isfinite(imaginary)
    sizes[np.isnan(real) | np.isnan(imaginary)] = math.nan
    if not beyond.any():
        return sizes, None
    sizes[beyond] = np.hypot(real[beyond] / 2.0, imaginary[beyond] / 2.0)
    return sizes, beyond


def _segment_beyond(sizes: Float64, beyond: NDArray[np.bool_], p: float) -> TensorStats:
    """A segment in which some magnitudes are given as halves."""
    parts = [TensorStats(p)]
    for values, divisor in ((sizes[~beyond], 1.0), (sizes[beyond], 0.5)):
        if len(values):
            words = values.view(F64.word)
            parts.append(_segment(words, words & F64.magnitude, F64, p).divided(divisor))
    bad = np.flatnonzero(~np.isfinite(sizes))
    return replace(merge(parts, p), first_nonfinite=int(bad[0]) if len(bad) else None)
