"""Buffers that a thread uses again and again.

The allocator returns arrays of this size to the system each time, and gets them back page by page.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_CACHE_LINE = 64


class Buffer:
    """An array that is reused, and replaced by a larger one when that is asked for."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: NDArray[Any] = np.empty(0, np.uint8)

    def array(self, dtype: DTypeLike, count: int) -> NDArray[Any]:
        """An array of `count` elements, whose content is left from the last use."""
        held = self._held
        if held.dtype != dtype or len(held) < count:
            held = self._held = _aligned(count * np.dtype(dtype).itemsize).view(dtype)
        return held[:count]


@dataclass
class ThreadBuffers(threading.local):
    """Each thread's own buffers, one for each use, so that none is taken while it is in use.

    Attributes:
        block: the bytes that a backend computes with.
        span: a range of a file, from which some bytes are copied.
        first, second: the bytes of two tensors that are compared.
        values: elements in float64, or their squares.
        first_values, second_values: those of two tensors that are compared.
        differences, sizes: how far these are apart, with signs and without.
        residuals: what a scaled tensor leaves of another.
        flipped, apart: the bits in which words differ, and how many numbers lie between them.
        magnitudes: the words of elements without their sign bits.
        below: which magnitudes are below the smallest normal number.
        indices, wide: intermediate arrays in decoding half precision.
    """

    block: Buffer = field(default_factory=Buffer)
    span: Buffer = field(default_factory=Buffer)
    first: Buffer = field(default_factory=Buffer)
    second: Buffer = field(default_factory=Buffer)
    values: Buffer = field(default_factory=Buffer)
    first_values: Buffer = field(default_factory=Buffer)
    second_values: Buffer = field(default_factory=Buffer)
    differences: Buffer = field(default_factory=Buffer)
    sizes: Buffer = field(default_factory=Buffer)
    residuals: Buffer = field(default_factory=Buffer)
    flipped: Buffer = field(default_factory=Buffer)
    apart: Buffer = field(default_factory=Buffer)
    magnitudes: Buffer = field(default_factory=Buffer)
    below: Buffer = field(default_factory=Buffer)
    indices: Buffer = field(default_factory=Buffer)
    wide: Buffer = field(default_factory=Buffer)


BUFFERS = ThreadBuffers()


def _aligned(nbytes: int) -> NDArray[np.uint8]:
    """New bytes that start at a cache line: vectors that straddle two lines are slower."""
    spare = np.empty(nbytes + _CACHE_LINE, np.uint8)
    start = -spare.ctypes.data % _CACHE_LINE
    return spare[start : start + nbytes]
