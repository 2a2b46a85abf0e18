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
from typing import Final

from gradtool.core.stats import TensorStats

_COUNT: Final = struct.Struct("<Q")
_FLOATS: Final = ("power_sum", "scale", "max_abs", "min_abs")
_COUNTS: Final = ("numel", "nan", "posinf", "neginf", "zeros", "subnormals")
_WIDTH: Final = 8 * (len(_FLOATS) + len(_COUNTS) + 2)
"""Bytes of one row, without the rests of its sum."""


def packed(rows: Sequence[TensorStats]) -> bytes:
    """The rows, all of one p, as bytes; OverflowError for counts beyond 63 bits."""
    firsts = (-1 if row.first_nonfinite is None else row.first_nonfinite for row in rows)
    columns = [array("d", [getattr(row, name) for row in rows]) for name in _FLOATS]
    counts = [array("q", [getattr(row, name) for row in rows]) for name in _COUNTS]
    counts += [array("q", firsts), array("q", [len(row.rest) for row in rows])]
    rests = array("d", [part for row in rows for pair in row.rest for part in pair])
    return _COUNT.pack(len(rows)) + b"".join(map(_bytes, [*columns, *counts, rests]))


def unpacked(data: bytes, norm_type: float) -> list[TensorStats]:
    """The rows again; ValueError for bytes that are none."""
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
    counts = [_counts(word) for word in words[len(_FLOATS) :]]
    rests = _floats(data[_COUNT.size + fixed :])
    _check(floats, counts, rests)
    found, at = [], 0
    for of_row in zip(*floats, *counts, strict=True):
        power_sum, scale, max_abs, min_abs = of_row[: len(_FLOATS)]
        numel, nan, posinf, neginf, zeros, subnormals, first, length = map(int, of_row[-8:])
        pairs = rests[at : at + 2 * length]
        at += 2 * length
        found.append(
            TensorStats(
                norm_type,
                numel,
                power_sum,
                scale,
                max_abs,
                min_abs,
                nan,
                posinf,
                neginf,
                zeros,
                subnormals,
                None if first < 0 else first,
                tuple(zip(pairs[::2], pairs[1::2], strict=True)),
            )
        )
    return found


def _check(
    floats: Sequence[array[float]], counts: Sequence[array[int]], rests: array[float]
) -> None:
    """ValueError for what nobody counts: negative numbers, parts that are more than the whole."""
    if any(not number >= 0.0 for column in floats for number in column):
        raise ValueError("a number that is negative or none")
    if any(math.isinf(number) for number in floats[2]) or any(map(math.isnan, rests)):
        raise ValueError("a largest magnitude that is not finite")
    *sizes, firsts, lengths = counts
    if any(number < 0 for column in (*sizes, lengths) for number in column):
        raise ValueError("a negative count")
    for numel, nan, posinf, neginf, zeros, subnormals in zip(*sizes, strict=True):
        if nan + posinf + neginf + zeros + subnormals > numel:
            raise ValueError("more elements of a kind than there are")
    for numel, nan, posinf, neginf, first in zip(*sizes[:4], firsts, strict=True):
        if not -1 <= first < max(numel, 1) or (first >= 0 and not nan + posinf + neginf):
            raise ValueError("a first element that is not there")
    if 2 * sum(lengths) != len(rests):
        raise ValueError("cut short")


def _bytes(numbers: array[float] | array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


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
