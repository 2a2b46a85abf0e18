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
from gradtool.engine.numpy_backend.columns import Columns, Int64
from gradtool.engine.numpy_backend.encodings import (
    F64,
    Array,
    Encoding,
    Float64,
    encoding_of_moduli,
    real_words,
)
from gradtool.engine.numpy_backend.segments import (
    Places,
    below_normal,
    locate,
    segment_columns,
)

ROW: Final = 4096

CACHED_NUMEL: Final = 32 * ROW
"""Elements of a long segment that are widened and added at a time: so many fit into a cache."""

_PROBED_NUMEL: Final = 400
"""Elements to look at first: so few that NumPy keeps Python's lock meanwhile."""


def stats(
    raw: Array, dtype: DType, counts: Sequence[int], norm_type: float, *, big_endian: bool = False
) -> list[TensorStats]:
    """Statistics of the segments that lie one after another in `raw`.

    Args:
        raw: bytes (uint8) of all segments, aligned to the element size.
        dtype: type of the elements.
        counts: elements in each segment, none of them 0.
        norm_type: p.
        big_endian: byte order of the elements.

    `first_nonfinite` counts from the start of its segment.
    """
    # NaN, Inf and numbers too small to count are no mistakes but what the data may hold: they
    # are told apart by their bits, and floating-point warnings about them are of no use.
    with np.errstate(all="ignore"):
        if dtype.component is None:
            words, encoding = real_words(raw, dtype, big_endian=big_endian)
            return _segments(words, encoding, counts, norm_type)
        part = DTYPES[dtype.component]
        moduli, is_halved = _moduli(raw, part, big_endian=big_endian)
        if is_halved is None:
            words, encoding = moduli.view(F64.word), encoding_of_moduli(part)
            return _segments(words, encoding, counts, norm_type)
        return _halved_segments(moduli, is_halved, counts, norm_type)


def columns(
    raw: Array,
    dtype: DType,
    counts: Int64,
    norm_type: float,
    *,
    big_endian: bool,
    places: Places,
) -> Columns:
    """The same as columns; `first_nonfinite` is the least of the `places` of such elements."""
    with np.errstate(all="ignore"):
        if dtype.component is None:
            words, encoding = real_words(raw, dtype, big_endian=big_endian)
        else:
            part = DTYPES[dtype.component]
            moduli, is_halved = _moduli(raw, part, big_endian=big_endian)
            words, encoding = moduli.view(F64.word), encoding_of_moduli(part)
            if is_halved is not None:
                parts = _halved_segments(moduli, is_halved, counts, norm_type)
                found = Columns.of(parts, norm_type)
                bad = np.flatnonzero(~np.isfinite(moduli))
                locate(bad, np.cumsum(counts) - counts, places, found)
                return found
        magnitudes = BUFFERS.magnitudes.array(encoding.word, len(words))
        np.bitwise_and(words, encoding.magnitude, out=magnitudes)
        return segment_columns(words, magnitudes, encoding, counts, norm_type, places)


def nonfinite_positions(raw: Array, dtype: DType, *, big_endian: bool = False) -> Array:
    """Positions of the NaN and Inf among the elements in `raw`, ascending."""
    part = dtype if dtype.component is None else DTYPES[dtype.component]
    words, encoding = real_words(raw, part, big_endian=big_endian)
    bad = (words & encoding.magnitude) >= encoding.infinity
    return np.flatnonzero(bad if part is dtype else bad.reshape(-1, 2).any(axis=1))


def _segments(
    words: Array, encoding: Encoding, counts: Sequence[int], p: float
) -> list[TensorStats]:
    magnitudes = BUFFERS.magnitudes.array(encoding.word, len(words))
    np.bitwise_and(words, encoding.magnitude, out=magnitudes)
    if len(counts) > 1:
        return [*segment_columns(words, magnitudes, encoding, counts, p).stats()]
    return [_segment(words, magnitudes, encoding, p)]


def _segment(words: Array, magnitudes: Array, encoding: Encoding, p: float) -> TensorStats:
    """The statistics of one segment; `magnitudes` are its words without sign bits."""
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
    """How many magnitudes are 0, and how many others are below the smallest normal number."""
    # The minimum, which takes half the time of counting, shows where there are none. The first
    # few elements show, in no time, where there are many.
    limit = encoding.smallest_normal
    if int(magnitudes[:_PROBED_NUMEL].min()) >= limit and int(magnitudes.min()) >= limit:
        return 0, 0
    zeros = len(magnitudes) - int(np.count_nonzero(magnitudes))
    return zeros, int(np.count_nonzero(below_normal(magnitudes, encoding))) - zeros


def _nonfinite_segment(
    words: Array, magnitudes: Array, encoding: Encoding, p: float
) -> TensorStats:
    """The statistics of a segment that holds non-finite elements."""
    finite = magnitudes < encoding.infinity
    finite_stats = TensorStats(p)
    if finite.any():
        finite_stats = _segment(words[finite], magnitudes[finite], encoding, p)
    bad = encoding.decode(words[~finite])
    return replace(
        finite_stats,
        numel=len(words),
        nan=int(np.count_nonzero(np.isnan(bad))),
        posinf=int(np.count_nonzero(bad == math.inf)),
        neginf=int(np.count_nonzero(bad == -math.inf)),
        first_nonfinite=int(np.argmin(finite)),
    )


def _power_sum(words: Array, encoding: Encoding, p: float, scale: float) -> float:
    """Sum of |v / scale|^p over finite values, for p < 0 over non-zero ones."""
    sums: list[float] = []
    for start in range(0, len(words), CACHED_NUMEL):
        values = encoding.decode(words[start : start + CACHED_NUMEL])
        # Terms that underflow are too small to count; for p < 0 a quotient may overflow, and
        # its power is then 0.
        sums += _row_sums(values if scale == 1.0 else values / scale, p)
    return math.fsum(sums)


def _row_sums(values: Float64, p: float) -> list[float]:
    """The sum of |v|^p over each row of `ROW` values, and over what remains after them."""
    if p == 2.0:
        return _reduce_rows(values, lambda rows: np.vecdot(rows, rows))
    powers = np.abs(values)
    if p != 1.0:
        np.power(powers, p, out=powers)
    return _reduce_rows(powers, lambda rows: rows.sum(axis=-1))


def _reduce_rows(values: Float64, reduce: Any) -> list[float]:
    whole = len(values) - len(values) % ROW
    sums: list[float] = reduce(values[:whole].reshape(-1, ROW)).tolist()
    if whole < len(values):
        sums.append(float(reduce(values[whole:])))
    return sums


def _moduli(
    raw: Array, part: DType, *, big_endian: bool
) -> tuple[Float64, NDArray[np.bool_] | None]:
    """|z| of complex elements, and which of them are halved, or None.

    |z| is NaN where either part is NaN, else infinite where either is: C's `hypot` would call a
    NaN beside an Inf infinite. Those that are finite but too large for float64, as only complex128
    can be, are halved.
    """
    words, encoding = real_words(raw, part, big_endian=big_endian)
    parts = encoding.decode(words)
    real, imaginary = parts[::2], parts[1::2]
    moduli = np.hypot(real, imaginary)
    too_large: NDArray[np.bool_] = np.isinf(moduli) & np.isfinite(real) & np.isfinite(imaginary)
    moduli[np.isnan(real) | np.isnan(imaginary)] = math.nan
    if not too_large.any():
        return moduli, None
    moduli[too_large] = np.hypot(real[too_large] / 2.0, imaginary[too_large] / 2.0)
    return moduli, too_large


def _halved_segments(
    moduli: Float64, is_halved: NDArray[np.bool_], counts: Sequence[int] | Int64, p: float
) -> list[TensorStats]:
    """The statistics of segments in which some moduli are halved."""
    bounds = np.cumsum([0, *counts]).tolist()
    return [
        _halved_segment(moduli[start:end], is_halved[start:end], p)
        for start, end in itertools.pairwise(bounds)
    ]


def _halved_segment(moduli: Float64, is_halved: NDArray[np.bool_], p: float) -> TensorStats:
    """The statistics of a segment in which some moduli are halved."""
    parts = [TensorStats(p)]
    for values, divisor in ((moduli[~is_halved], 1.0), (moduli[is_halved], 0.5)):
        if len(values):
            words = values.view(F64.word)
            parts.append(_segment(words, words & F64.magnitude, F64, p).divided(divisor))
    bad = np.flatnonzero(~np.isfinite(moduli))
    return replace(merge(parts, p), first_nonfinite=int(bad[0]) if len(bad) else None)
