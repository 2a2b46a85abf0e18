"""Ranks that files note, where their names have bare numbers: `0.safetensors`, `step5-0.pt`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from operator import itemgetter
from typing import TypeAlias

from gradtool.core.file_names import numbers_in, template
from gradtool.errors import InputError
from gradtool.formats.layouts.arrangement import Unit, rank_set, runs_among
from gradtool.storage.listing import Listing

WriterOf: TypeAlias = Callable[[str], tuple[int, int] | None]
"""The rank that a file notes and how many there are; raises InputError where it cannot be read."""

_Ranked: TypeAlias = list[tuple[int, Unit]]


def with_noted_ranks(listing: Listing, units: Sequence[Unit], writer_of: WriterOf) -> list[Unit]:
    """The units, those made sets that differ in numbers only, and note different ranks."""
    merged = list(units)
    for run in runs_among(units):
        if any(unit.kind != "entry" or listing.is_directory(unit.name) for unit in run):
            continue
        with suppress(InputError):  # which opening all of them will raise again
            if (writer_of(run[0].name) or (0, 1))[1] > 1:
                writers = [writer_of(unit.name) or (0, 1) for unit in run]
                ranked = list(zip([rank for rank, _ in writers], run, strict=True))
                sets = _sets_of(ranked, max(count for _, count in writers))
                if sets:
                    merged = [*(unit for unit in merged if unit not in run), *sets]
    return merged


def _sets_of(ranked: _Ranked, count: int) -> list[Unit]:
    """The sets that files make up; none where no two are ranks of one dump."""
    groups: dict[str, _Ranked] = {}
    at = _place_of_rank(ranked)
    if at is not None:
        for rank, unit in ranked:
            start = numbers_in(unit.name)[at].start
            name = template(unit.name, lambda number, start=start: number.start == start)  # type: ignore[misc]
            groups.setdefault(name, []).append((rank, unit))
    if all(len(group) == 1 for group in groups.values()):
        # Which number is the rank's is not to be seen, nor does it matter if each is there once.
        is_one = len({rank for rank, _ in ranked}) == len(ranked)
        name = template(ranked[0][1].name, lambda number: number.role in ("step", "part", "other"))
        groups = {name: ranked} if is_one else {}
    return [
        rank_set(name, sorted(group, key=itemgetter(0)), count) for name, group in groups.items()
    ]


def _place_of_rank(ranked: _Ranked) -> int | None:
    """Which of the numbers in the names is that of the noted rank, be it counted from 0 or 1."""
    columns = zip(*(numbers_in(unit.name) for _, unit in ranked), strict=True)
    ranks = [rank for rank, _ in ranked]
    found = [
        at
        for at, column in enumerate(columns)
        if len({number.value - rank for number, rank in zip(column, ranks, strict=True)}) == 1
    ]
    return found[-1] if found else None
