"""Statistics of many segments of elements at once, with no calls for each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gradtool.engine.buffers import BUFFERS
from gradtool.engine.numpy_backend.columns import NOWHERE, Columns, Int64, power_scales
from gradtool.engine.numpy_backend.encodings import Array, Encoding, Float64

Places = Callable[[NDArray[np.intp]], Int64]
"""From places in a block, which counts its elements, to places in a tensor."""


def segment_columns(
    words: Array,
    magnitudes: Array,
    encoding: Encoding,
    counts: Sequence[int] | Int64,
    p: float,
    places: Places | None = None,
) -> Columns:
    """The statistics of segments that lie one after another, none of them empty.

    `magnitudes` are the words without sign bits, and are changed. `first_nonfinite` is the least
    of the `places`, or counts from the start of its segment.
    """
    ends = np.cumsum(counts, dtype=np.intp)
    starts = ends - counts
    found = Columns.empty(p, 0, len(starts))
    found.count("numel")[:] = counts
    if int(magnitudes.max()) >= encoding.infinity:
        bad = np.flatnonzero(magnitudes >= encoding.infinity)
        segments = locate(bad, starts, places, found)
        _count_nonfinite(encoding.decode(words[bad]), segments, found)
        magnitudes[bad] = 0
        words = words.copy()
        words[bad] = 0
    _count_small(magnitudes, encoding, starts, found)
    found.max_abs[:] = encoding.decode(np.maximum.reduceat(magnitudes, starts))
    peaks = found.max_abs
    if p < 0.0:
        nonzero = np.where(magnitudes == 0, encoding.infinity, magnitudes).astype(encoding.word)
        found.min_abs[:] = encoding.decode(np.minimum.reduceat(nonzero, starts))
        peaks = found.min_abs
    found.scale[:] = power_scales(peaks, p)
    if p == 0.0:
        found.power_sum[:] = np.add.reduceat(magnitudes != 0, starts, dtype=np.int64)
    elif not math.isinf(p):
        values = encoding.decode(words)
        if (found.scale != 1.0).any():
            values = values / np.repeat(found.scale, counts)
        np.add.reduceat(_powers(values, magnitudes, p), starts, out=found.power_sum)
    return found


def below_normal(magnitudes: Array, encoding: Encoding) -> NDArray[np.bool_]:
    """Which magnitudes are 0 or subnormal."""
    below = BUFFERS.below.array(np.bool_, len(magnitudes))
    np.less(magnitudes, encoding.smallest_normal, out=below)
    return below


def _powers(values: Float64, magnitudes: Array, p: float) -> Float64:
    """|v|^p of values that are finite; for p < 0, 0 of those that are 0."""
    powers = BUFFERS.values.array(np.float64, len(values))  # where most dtypes are decoded
    if p == 2.0:
        return np.square(values, out=powers)
    np.abs(values, out=powers)
    if p != 1.0:
        np.power(powers, p, out=powers)
    if p < 0.0:
        powers[magnitudes == 0] = 0.0
    return powers


def _count_small(magnitudes: Array, encoding: Encoding, starts: Int64, found: Columns) -> None:
    """Count the zeros and the subnormal numbers, where there are any, among finite elements."""
    smallest = int(magnitudes.min())
    if smallest >= encoding.smallest_normal:
        return
    numel, zeros = found.count("numel"), found.count("zeros")
    # In the narrowest type that holds them: NumPy adds wide ones several times slower.
    narrow = np.min_scalar_type(int(numel.max()))
    found.count("subnormals")[:] = np.add.reduceat(
        below_normal(magnitudes, encoding), starts, dtype=narrow
    )
    if smallest == 0:
        zeros[:] = np.add.reduceat(magnitudes == 0, starts, dtype=narrow)
        found.count("subnormals")[:] -= zeros
        for name in ("nan", "posinf", "neginf"):  # which were made 0
            zeros -= found.count(name)


def _count_nonfinite(values: Float64, segments: Int64, found: Columns) -> None:
    """Count NaN and Inf, in the segments that each of the `values` is in."""
    kinds = {"nan": np.isnan(values), "posinf": values == math.inf, "neginf": values == -math.inf}
    for name, chosen in kinds.items():
        found.count(name)[:] = np.bincount(segments[chosen], minlength=len(found))


def locate(bad: Int64, starts: Int64, places: Places | None, found: Columns) -> Int64:
    """Find the first non-finite element of each segment, among those at the places `bad`.

    The segments that these are in.
    """
    segments: Int64 = np.repeat(np.arange(len(found)), found.count("numel"))[bad]
    found.first_nonfinite[:] = NOWHERE
    at = bad - starts[segments] if places is None else places(bad)
    np.minimum.at(found.first_nonfinite, segments, at)
    return segments
