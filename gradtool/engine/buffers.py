"""Arrays that a thread uses again and again.

Temporary arrays of this size would go back to the system each time, and come again page by
page.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_CACHE_LINE = 64

_held = threading.local()


def scratch(name: str, dtype: DTypeLike, count: int) -> NDArray[Any]:
    """An array of this thread's own for `count` elements; its content is that of the last use."""
    held: NDArray[Any] | None = getattr(_held, name, None)
    if held is None or held.dtype != dtype or len(held) < count:
        held = _aligned(count * np.dtype(dtype).itemsize).view(dtype)
        setattr(_held, name, held)
    return held[:count]


def _aligned(nbytes: int) -> NDArray[np.uint8]:
    """Bytes from the start of a cache line on: vectors that straddle two lines are slower."""
    spare = np.empty(nbytes + _CACHE_LINE, np.uint8)
    start = -spare.ctypes.data % _CACHE_LINE
    return spare[start : start + nbytes]
