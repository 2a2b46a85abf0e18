"""A sparse tensor that is not coalesced, as the sums of its values and the indices of these.

Entries are read window by window, so that memory stays constant however many there are; see
`torch.Tensor.coalesce`, whose result in exact arithmetic this is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gradtool.storage.elements.entries import Entries, Float64, Int64, OpenEntries
from gradtool.storage.elements.sums import RunningSums, group_sums
from gradtool.storage.elements.windows import (
    MOST_ENTRIES,
    Window,
    is_ascending,
    keys_within,
    windows,
)

_MOST_ELEMENTS: Final = 1 << 20
"""Elements that are summed up together."""

_FEWEST_COLUMNS: Final = 64
"""Columns of rows that are read together, at least: a read of fewer bytes costs as much."""


@dataclass(frozen=True, slots=True)
class SummedValues:
    """A stream: the sum of the values at each index that has some, by index, in float64.

    Complex sums are pairs of float64, as C128 has them.
    """

    entries: Entries
    windows: tuple[Window, ...]

    @property
    def places(self) -> int:
        """How many indices have values."""
        return sum(window.places for window in self.windows)

    @property
    def nbytes(self) -> int:
        """See `Stream`."""
        return self.places * self.entries.columns * self.entries.width * 8

    def pieces(self, max_bytes: int) -> Iterator[memoryview]:
        """See `Stream`; in this machine's byte order."""
        with OpenEntries(self.entries) as opened:
            found = (part for window in self.windows for part in _sums(opened, window))
            yield from _pieces(found, max_bytes)


@dataclass(frozen=True, slots=True)
class SummedIndices:
    """A stream: the indices that have values, in order, as torch's `indices()` has them, in I64."""

    entries: Entries
    windows: tuple[Window, ...]

    @property
    def nbytes(self) -> int:
        """See `Stream`."""
        return len(self.entries.sizes) * sum(window.places for window in self.windows) * 8

    def pieces(self, max_bytes: int) -> Iterator[memoryview]:
        """See `Stream`; in this machine's byte order."""
        with OpenEntries(self.entries) as opened:
            found = (
                np.unravel_index(_sorted_places(opened, window), self.entries.sizes)[axis]
                for axis in range(len(self.entries.sizes))
                for window in self.windows
            )
            yield from _pieces(found, max_bytes)


def summed_values(entries: Entries) -> SummedValues | None:
    """The sums of the values of equal indices; None where entries are in order, each for itself.

    Reads all indices. Raises CorruptFileError for one that is out of bounds.
    """
    with OpenEntries(entries) as opened:
        return None if is_ascending(opened) else SummedValues(entries, windows(opened))


def _sorted_places(opened: OpenEntries, window: Window) -> Int64:
    """The places of a window that have entries."""
    if window.high - window.low == 1:
        return np.array([window.low])
    return np.unique(keys_within(opened, window.low, window.high)[0])


def _sums(opened: OpenEntries, window: Window) -> Iterator[Float64]:
    """The sums of all places of a window, in order, as parts of rows or as many rows."""
    if window.entries > MOST_ENTRIES:
        yield from _sums_of_many(opened, partial(_numbers_at, opened, window.low))
        return
    keys, numbers = keys_within(opened, window.low, window.high)
    order = np.argsort(keys, kind="stable")
    keys, numbers = keys[order], numbers[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    ends = np.append(starts[1:], len(keys))
    columns = opened.entries.columns
    group = 0
    while group < len(starts):
        start = starts[group]
        last = int(np.searchsorted(ends, start + _MOST_ELEMENTS // columns, "right"))
        last = max(last, group + 1)
        members = numbers[start : ends[last - 1]]
        width = min(columns, _MOST_ELEMENTS // len(members))
        if width < min(columns, _FEWEST_COLUMNS):
            yield from _sums_of_many(opened, partial(iter, [members]))
        else:
            for first in range(0, columns, width):
                rows = _rows(opened, members, first, min(first + width, columns))
                yield group_sums(rows, starts[group:last] - start)
        group = last


def _rows(opened: OpenEntries, members: Int64, first: int, stop: int) -> Float64:
    """Elements `first` to `stop` of entries in any order, which are read in that of the file."""
    order = np.argsort(members)
    out = np.empty((len(members), (stop - first) * opened.entries.width))
    out[order] = opened.rows(members[order], first, stop)
    return out


def _numbers_at(opened: OpenEntries, place: int) -> Iterator[Int64]:
    """The numbers of the entries at a place, ascending."""
    for first, keys in opened.places():
        yield np.flatnonzero(keys == place) + first


def _sums_of_many(opened: OpenEntries, members: Callable[[], Iterator[Int64]]) -> Iterator[Float64]:
    """The sums of one place that has more entries than go into memory; `members` numbers them."""
    columns = opened.entries.columns
    for begin in range(0, columns, _FEWEST_COLUMNS):
        end = min(begin + _FEWEST_COLUMNS, columns)
        running = RunningSums((end - begin) * opened.entries.width)
        step = _MOST_ELEMENTS // (end - begin)
        for numbers in members():
            for start in range(0, len(numbers), step):
                running.add(opened.rows(numbers[start : start + step], begin, end))
        yield np.array([running.sums()])


def _pieces(arrays: Iterable[NDArray[np.generic]], max_bytes: int) -> Iterator[memoryview]:
    """The bytes of all arrays in order, in pieces of `max_bytes`, only the last one shorter."""
    buffer, filled = np.empty(max_bytes, np.uint8), 0
    for array in arrays:
        rest = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        while len(rest):
            taken = min(len(rest), max_bytes - filled)
            buffer[filled : filled + taken] = rest[:taken]
            filled, rest = filled + taken, rest[taken:]
            if filled == max_bytes:
                yield buffer.data
                filled = 0
    if filled:
        yield buffer[:filled].data
