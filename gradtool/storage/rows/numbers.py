"""Statistics as bytes, in columns of little-endian numbers, and back.

Whatever the bytes say, what comes back are statistics that could have been counted; else it is a
ValueError.
"""

from __future__ import annotations

import math
import struct
import sys
from array import array
from collections.abc import Sequence
from itertools import chain, islice, repeat
from operator import attrgetter, gt
from typing import Final

from gradtool.core.stats import TensorStats

_COUNT: Final = struct.Struct("<Q")
_FLOATS: Final = ("power_sum", "scale", "max_abs", "min_abs")
_COUNTS: Final = ("numel", "nan", "posinf", "neginf", "zeros", "subnormals")
_COLUMNS: Final = attrgetter(*_FLOATS, *_COUNTS)
_WIDTH: Final = 8 * (len(_FLOATS) + len(_COUNTS) + 2)
"""Bytes of one row, without the rests of its sum."""


def packed(rows: Sequence[TensorStats]) -> bytes:
    """The rows, all of one p, as bytes; OverflowError for counts beyond 63 bits."""
    columns = list(zip(*map(_COLUMNS, rows), strict=True)) or [()] * len(_FLOATS + _COUNTS)
    firsts = [-1 if row.first_nonfinite is None else row.first_nonfinite for row in rows]
    lengths = [len(row.rest) for row in rows]
    rests = [part for row in rows for pair in row.rest for part in pair]
    try:
        counts = [_spelled("q", column) for column in (*columns[len(_FLOATS) :], firsts, lengths)]
    except struct.error as error:
        raise OverflowError("a count beyond 63 bits") from error
    floats = [_spelled("d", column) for column in columns[: len(_FLOATS)]]
    return b"".join([_COUNT.pack(len(rows)), *floats, *counts, _spelled("d", rests)])


def _spelled(form: str, numbers: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(numbers)}{form}", *numbers)


def unpacked(data: bytes, norm_type: float) -> list[TensorStats]:
    """The rows again; ValueError for bytes that are none."""
    if math.isnan(norm_type):
        raise ValueError("norms of no order")
    if len(data) < _COUNT.size:
        raise ValueError("cut short")
    (rows,) = _COUNT.unpack_from(data)
    fixed = rows * _WIDTH
    if len(data) < _COUNT.size + fixed or len(data) % 8:
        raise ValueError("cut short")
    words = [
        data[at : at + 8 * rows] for at in range(_COUNT.size, _COUNT.size + fixed, 8 * max(rows, 1))
    ] or [b""] * (len(_FLOATS) + len(_COUNTS) + 2)
    floats = [_floats(word) for word in words[: len(_FLOATS)]]
    *counts, firsts, lengths = [_counts(word) for word in words[len(_FLOATS) :]]
    rests = _floats(data[_COUNT.size + fixed :])
    _check_floats(floats, rests)
    _check_counts(counts, firsts, lengths, len(rests))
    numel, *others = counts
    positions = [None if first < 0 else first for first in firsts]
    columns = (repeat(norm_type, rows), numel, *floats, *others, positions, _pairs(rests, lengths))
    return list(map(TensorStats, *columns))


def _pairs(rests: array[float], lengths: array[int]) -> list[tuple[tuple[float, float], ...]]:
    """The rests of each row, which are so many pairs."""
    if not rests:
        return [()] * len(lengths)
    pairs = zip(rests[::2], rests[1::2], strict=True)
    return [tuple(islice(pairs, length)) for length in lengths]


def _check_floats(floats: Sequence[array[float]], rests: array[float]) -> None:
    """ValueError for numbers that nobody comes to."""
    is_positive = (0.0).__le__  # which NaN is not
    if not all(map(is_positive, chain.from_iterable(floats))):
        raise ValueError("a number that is negative or none")
    if any(map(math.isinf, floats[2])) or any(map(math.isnan, rests)):
        raise ValueError("a largest magnitude that is not finite")


def _check_counts(
    counts: Sequence[array[int]], firsts: array[int], lengths: array[int], rests: int
) -> None:
    """ValueError for what nobody counts: fewer than none, parts that are more than the whole."""
    if any(min(column, default=0) < 0 for column in (*counts, lengths)):
        raise ValueError("a negative count")
    numel, nan, posinf, neginf, zeros, subnormals = counts
    parts = map(sum, zip(nan, posinf, neginf, zeros, subnormals, strict=True))
    if any(map(gt, parts, numel)):
        raise ValueError("more elements of a kind than there are")
    for number, first in enumerate(firsts):
        if first == -1:
            continue
        if not 0 <= first < numel[number] or not nan[number] + posinf[number] + neginf[number]:
            raise ValueError("a first element that is not there")
    if 2 * sum(lengths) != rests:
        raise ValueError("cut short")


def _floats(data: bytes) -> array[float]:
    numbers = array("d", data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _counts(data: bytes) -> array[int]:
    numbers = array("q", data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
