"""Arrays that a thread uses again and again.

Temporary arrays of this size would go back to the system each time, and come again page by
page.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_CACHE_LINE = 64


class Buffer:
    """An array that grows with what is asked of it."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: NDArray[Any] = np.empty(0, np.uint8)

    def array(self, dtype: DTypeLike, count: int) -> NDArray[Any]:
        """`count` elements; their content is that of the last use."""
        held = self._held
        if held.dtype != dtype or len(held) < count:
            held = self._held = _aligned(count * np.dtype(dtype).itemsize).view(dtype)
        return held[:count]


@dataclass
class ThreadBuffers(threading.local):
    """Each thread's own buffers, by what they are for; none is asked for while it is in use.

    Attributes:
        block: the bytes that a backend computes with.
        span: bytes of a file from which some are taken.
        values: elements in float64, or their squares.
        magnitudes: elements without their signs, as words.
        below: which of them are small.
        indices, wide: steps of decoding types that NumPy does not know.
    """

    block: Buffer = field(default_factory=Buffer)
    span: Buffer = field(default_factory=Buffer)
    values: Buffer = field(default_factory=Buffer)
    magnitudes: Buffer = field(default_factory=Buffer)
    below: Buffer = field(default_factory=Buffer)
    indices: Buffer = field(default_factory=Buffer)
    wide: Buffer = field(default_factory=Buffer)


BUFFERS = ThreadBuffers()


def _aligned(nbytes: int) -> NDArray[np.uint8]:
    """Bytes from the start of a cache line on: vectors that straddle two lines are slower."""
    spare = np.empty(nbytes + _CACHE_LINE, np.uint8)
    start = -spare.ctypes.data % _CACHE_LINE
    return spare[start : start + nbytes]
