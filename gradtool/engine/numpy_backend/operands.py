"""Blocks of elements that are compared: their bits, their numbers, their statistics."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from gradtool.core.stats import TensorStats
from gradtool.engine.numpy_backend.encodings import Array, Encoding, Float64, real_words
from gradtool.engine.numpy_backend.kernels import stats
from gradtool.engine.operands import Operand

_PROBED: Final = 1 << 14
"""Bytes that are compared first: in most blocks that differ they do."""


def are_equal(first: Array, second: Array) -> bool:
    """Whether all bytes are the same: eight at a time, with what is left over."""
    words = len(first) & -8
    if not np.array_equal(first[:_PROBED], second[:_PROBED]):
        return False
    return np.array_equal(first[:words].view("u8"), second[:words].view("u8")) and np.array_equal(
        first[words:], second[words:]
    )


def stats_of(side: Operand, norm_type: float = 2.0) -> TensorStats:
    """The statistics of the elements of a side; an infinite p needs no sum."""
    (found,) = stats(side.raw, side.dtype, [side.numel], norm_type)
    return replace(found, first_nonfinite=None).divided(side.divisor)


class Numbers:
    """One side's numbers, real ones or parts: as they are stored, and in float64."""

    def __init__(self, side: Operand) -> None:
        self.real = side.real
        self.codes: Array = side.raw.view(f"u{self.real.itemsize}")
        self._words: Array
        self._encoding: Encoding
        self._words, self._encoding = real_words(side.raw, self.real, big_endian=False)
        self._divisor = side.divisor

    def values(self, part: slice, out: Float64) -> Float64:
        """Those of a part, as a view or in `out`."""
        found: Array
        if self.real.name == "F32":  # most are, and the encoding would copy them once more
            found = self._words[part].view(np.float32)
        else:
            found = self._encoding.decode(self._words[part])
        if self._divisor != 1.0:
            return np.divide(found, self._divisor, out=out, dtype=np.float64)
        if self.real.bits == 64:
            return found
        np.copyto(out, found)
        return out
