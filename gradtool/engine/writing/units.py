"""The factor of each element of a tensor whose units have factors of their own."""

from __future__ import annotations

import math

import numpy as np

from gradtool.core.clipping import Units
from gradtool.engine.backend import Coefs
from gradtool.engine.overlaps.views import Int64, Layout


def coefs_in_order(units: Units, layout: Layout | None, first: int, count: int) -> Coefs:
    """The factors of `count` elements from the one that is `first` as they are stored.

    `layout` is that of a tensor which is not stored in C order, and without gaps.
    """
    if layout is not None:
        stored = np.arange(first, first + count, dtype=np.int64)
        return coefs_at(units, layout.positions(stored))
    size, coefs = _size(units), np.frombuffer(units.coefs)
    start, stop = first // size, -(-(first + count) // size)
    borders = np.clip(np.arange(start, stop + 1) * size, first, first + count)
    return np.repeat(coefs[start:stop], borders[1:] - borders[:-1])


def coefs_at(units: Units, positions: Int64) -> Coefs:
    """The factors of the elements at C-order positions of the tensor."""
    found: Coefs = np.frombuffer(units.coefs)[positions // _size(units)]
    return found


def _size(units: Units) -> int:
    """The elements of one unit."""
    return math.prod(units.shape[1:] if len(units.shape) > 1 else units.shape)
