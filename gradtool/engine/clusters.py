"""Walking views that share a storage, a bounded window of its elements at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gradtool.engine.plan import BLOCK_ELEMENTS, Member
from gradtool.engine.views import Int64


class Named(NamedTuple):
    """What one member names of a window.

    `member` is its position among the members, `at` the elements, ascending from the window's
    first one, and `positions` their C-order positions in the member.
    """

    member: int
    at: Int64
    positions: Int64


def window_bounds(count: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of each window over `count` elements."""
    for start in range(0, count, BLOCK_ELEMENTS):
        yield start, min(start + BLOCK_ELEMENTS, count)


def named_between(members: Sequence[Member], start: int, stop: int) -> Iterator[Named]:
    """What each member names of the window, for those that name anything there."""
    for index, member in enumerate(members):
        if member.first >= stop or member.first + member.span <= start:
            continue
        low = start - member.first
        offsets, positions = member.layout.between(low, stop - member.first)
        if len(offsets):
            yield Named(index, offsets - low, positions)
