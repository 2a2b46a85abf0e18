"""Ranges of places of which all entries fit into memory, or which are one place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from gradtool.storage.elements.entries import Int64, OpenEntries

MOST_ENTRIES: Final = 1 << 19
"""Entries of several places that are sorted in memory together."""

_BINS: Final = 1 << 12
"""Into how many ranges those are cut that have more entries; a pass over all indices each time."""


class Window(NamedTuple):
    """The places from `low` to before `high`, and how many entries are at how many of them."""

    low: int
    high: int
    entries: int
    places: int


def windows(opened: OpenEntries) -> tuple[Window, ...]:
    """All windows that have entries, in their order.

    Takes a pass over the indices for each window, and one for each time a range is cut.
    """
    whole = 0, opened.entries.places, opened.entries.count
    return tuple(
        Window(low, high, entries, _places(opened, low, high))
        for low, high, entries in _ranges(opened, *whole)
    )


def keys_within(opened: OpenEntries, low: int, high: int) -> tuple[Int64, Int64]:
    """The places of all entries of a range, and the numbers of these entries, ascending."""
    keys, numbers = [], []
    for first, found in opened.places():
        chosen = np.flatnonzero((found >= low) & (found < high))
        keys.append(found[chosen])
        numbers.append(chosen + first)
    return np.concatenate(keys), np.concatenate(numbers)


def is_ascending(opened: OpenEntries) -> bool:
    """Whether each entry has a place after that of the one before: they are coalesced."""
    last = -1
    ascending = True  # all are looked at: an index may be out of bounds
    for _, keys in opened.places():
        ascending &= int(keys[0]) > last and bool((keys[1:] > keys[:-1]).all())
        last = int(keys[-1])
    return ascending


def _ranges(
    opened: OpenEntries, low: int, high: int, entries: int
) -> Iterator[tuple[int, int, int]]:
    """Ranges of the places of one, with the numbers of their entries, which are not 0."""
    if entries <= MOST_ENTRIES or high - low == 1:
        yield low, high, entries
        return
    step = -(-(high - low) // _BINS)
    counts = np.zeros(_BINS, np.int64)
    for _, keys in opened.places():
        chosen = keys[(keys >= low) & (keys < high)]
        counts += np.bincount((chosen - low) // step, minlength=_BINS)
    start, held = low, 0
    for number, count in enumerate(counts.tolist()):
        begin, end = low + number * step, min(low + (number + 1) * step, high)
        if held and held + count > MOST_ENTRIES:
            yield start, begin, held
            held = 0
        if count > MOST_ENTRIES:
            yield from _ranges(opened, begin, end, count)
            continue
        start = start if held else begin
        held += count
    if held:
        yield start, high, held


def _places(opened: OpenEntries, low: int, high: int) -> int:
    """How many places of a range have entries."""
    if high - low == 1:
        return 1
    keys, _ = keys_within(opened, low, high)
    keys.sort()
    return 1 + int(np.count_nonzero(keys[1:] != keys[:-1]))
