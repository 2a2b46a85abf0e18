"""Elements read through strides, in few reads, into an array in C order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gradtool.core.shapes.strides import distinct_axes, is_contiguous, span

MOST_SPAN: Final = 4 << 20
"""Bytes that are read at once to pick elements from."""

READ_NBYTES: Final = 16 << 10
"""Bytes that are read over in the time that another read takes to begin."""

WORDS: Final = {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "c16"}
"""NumPy's types that elements of a size are copied as."""

ReadInto = Callable[[int, memoryview], None]
"""Fills a buffer from a byte of a tensor's storage on."""

Near = Callable[[int], NDArray[np.uint8]]
"""Gives an array of so many bytes, for the time of one read."""


def fill(
    read_into: ReadInto, first: int, strides: Sequence[int], out: NDArray[Any], near: Near
) -> None:
    """Fill `out` with the elements of its shape from the `first` on, which are `strides` apart."""
    itemsize, sizes = out.itemsize, out.shape
    if out.flags.c_contiguous and is_contiguous(sizes, strides):
        read_into(first * itemsize, out.reshape(-1).view(np.uint8).data)
        return
    axes, reach = distinct_axes(sizes, strides), span(sizes, strides)
    if not axes or _is_near(axes, reach, itemsize):
        between = near(reach * itemsize)
        read_into(first * itemsize, between.data)
        steps = tuple(stride * itemsize for stride in strides)
        out[...] = np.ndarray(sizes, out.dtype, between.data, strides=steps)
        return
    stride, size = axes[0]
    axis = list(zip(strides, sizes, strict=True)).index(axes[0])
    inner = reach - (size - 1) * stride
    together = 1
    if reach * itemsize > MOST_SPAN and (stride - inner) * itemsize <= READ_NBYTES:
        together = max((MOST_SPAN // itemsize - inner) // stride + 1, 1)
    for start in range(0, size, together):
        part = out[(slice(None),) * axis + (slice(start, start + together),)]
        fill(read_into, first + start * stride, strides, part, near)


def _is_near(axes: Sequence[tuple[int, int]], reach: int, itemsize: int) -> bool:
    """Whether one read over all that lies between elements is cheaper than several reads."""
    wasted = reach - math.prod(size for _, size in axes)
    return reach * itemsize <= MOST_SPAN and wasted * itemsize <= axes[0][1] * READ_NBYTES
