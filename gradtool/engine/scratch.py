"""Arrays that a thread uses again and again.

Temporary arrays of this size would go back to the system each time, and come again page by
page.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_held = threading.local()


def scratch(name: str, dtype: DTypeLike, count: int) -> NDArray[Any]:
    """An array of this thread's own for `count` elements; its content is that of the last use."""
    held: NDArray[np.uint8] | None = getattr(_held, name, None)
    nbytes = count * np.dtype(dtype).itemsize
    if held is None or len(held) < nbytes:
        held = np.empty(nbytes, np.uint8)
        setattr(_held, name, held)
    return held[:nbytes].view(dtype)
