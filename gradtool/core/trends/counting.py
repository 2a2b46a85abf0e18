"""Numbers of steps: which are missing between others, and which are there more than once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from gradtool.core.file_names import are_parts

_LEAST_INTERVALS: Final = 3
"""Intervals between steps that have to be alike for others to be conspicuous."""


class Gap(NamedTuple):
    """Steps that are not there, one after another: the first of them, and how many."""

    first: int
    steps: int


def missing(numbers: Sequence[int]) -> tuple[list[Gap], int]:
    """The steps that are not there of a run that has one every so many, and how many these are.

    What lies off that grid is left alone: a dump that was made because a norm was not finite. Where
    no gap between steps is more usual than all others, nothing is missing.
    """
    in_order = sorted(set(numbers))
    intervals = Counter(after - before for before, after in pairwise(in_order))
    if not intervals:
        return [], 0
    every, times = intervals.most_common(1)[0]
    if times < _LEAST_INTERVALS or 2 * times <= intervals.total():
        return [], 0
    phase = Counter(number % every for number in in_order).most_common(1)[0][0]
    on_grid = [number for number in in_order if number % every == phase]
    return [
        Gap(before + every, (after - before) // every - 1)
        for before, after in pairwise(on_grid)
        if after - before > every
    ], every


def doubled(steps: Iterable[tuple[int, str]]) -> dict[int, list[str]]:
    """The steps that several dumps are of, and their paths; parts of one dump are not several."""
    paths: dict[int, list[str]] = {}
    for number, path in steps:
        known = paths.setdefault(number, [])
        if not any(are_parts(path, other) for other in known):
            known.append(path)
    return {number: found for number, found in paths.items() if found[1:]}
