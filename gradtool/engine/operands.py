"""Blocks of two tensors that a backend compares: their bytes, and where their elements are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradtool.core.dtypes import DTYPES, DType


class Operand(NamedTuple):
    """The elements of one side of a block.

    Attributes:
        raw: their bytes, little-endian.
        dtype: their type.
        divisor: what they are to be divided by.
    """

    raw: NDArray[np.uint8]
    dtype: DType
    divisor: float = 1.0

    @property
    def real(self) -> DType:
        """The type of the elements, or of their parts."""
        return DTYPES[self.dtype.component] if self.dtype.component else self.dtype

    @property
    def numel(self) -> int:
        """The number of elements."""
        return len(self.raw) // self.dtype.itemsize


class Walk(NamedTuple):
    """Where the elements of a block are: from steps into it to C-order positions."""

    positions: Callable[[NDArray[np.intp]], NDArray[np.int64]]
    is_ascending: bool


def have_one_code(a: Operand, b: Operand) -> bool:
    """Whether elements of the same bits are the same numbers, and no others are."""
    return a.dtype == b.dtype and a.divisor == b.divisor


def narrower(one: DType, other: DType) -> DType:
    """Of two real types the one with fewer bits, or with fewer of them in the significand."""
    return min(one, other, key=lambda dtype: (dtype.bits, dtype.precision, dtype.name))


def flipped_bits(first: NDArray[Any], second: NDArray[Any]) -> list[int]:
    """The bits in which elements differ: rows of one word, or of the real and imaginary ones."""
    words = first ^ second
    width = words.itemsize * 8
    parts = range(words.shape[1])
    return [sum(int(row[part]) << width * part for part in parts) for row in words]
