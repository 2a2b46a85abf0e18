"""Dumps that were given together, sorted into the runs that they are steps of."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from gradtool.core.file_names import are_parts, are_ranks, counts_steps, series_of, without_parts
from gradtool.core.judging.verdict import Verdict
from gradtool.core.names import natural_key


@dataclass(frozen=True, slots=True)
class Series:
    """Dumps of one run.

    Attributes:
        name: what their paths have in common, with `*` for the numbers of steps; "" where nothing
            but the order in which they were given makes them a series.
        steps: the positions of the verdicts on each step, in the order of steps. Dumps of one step
            whose paths differ in the number of a rank or another part only are one step together.
    """

    name: str
    steps: tuple[tuple[int, ...], ...]


class _Placed(NamedTuple):
    """A verdict, and where its dump lies below the directory that all are in."""

    verdict: Verdict
    below: str

    @property
    def is_numbered(self) -> bool:
        """Whether its path tells of a step."""
        return counts_steps(self.below)

    @property
    def directory(self) -> str:
        """That in which it lies."""
        return os.path.dirname(self.below)


def series_among(verdicts: Sequence[Verdict]) -> Iterator[Series]:
    """The series that dumps with gradients make up, those that come first before others.

    Paths that differ in the step only are one; so are, of a directory, dumps that note steps where
    no path has one. Beside such a dump without a step is one of its own: `latest.pt` is a copy of
    one of the steps, and none more. Where nothing has a step all are one, in the order given.
    """
    placed = _placed(verdicts)
    have_steps = any(one.verdict.step is not None or one.is_numbered for one in placed)
    numbered = {one.directory for one in placed if one.is_numbered}
    groups: dict[str, list[int]] = {}
    for position, one in enumerate(placed):
        if one.verdict.summary is not None:
            name = _name(one, numbered) if have_steps else ""
            groups.setdefault(name, []).append(position)
    for name, group in groups.items():
        path, below = verdicts[group[0]].path, placed[group[0]].below
        shown = path.removesuffix(below) + name if path.endswith(below) and name else name
        yield Series(shown, tuple(_steps(verdicts, group, are_numbered=have_steps)))


def _placed(verdicts: Sequence[Verdict]) -> list[_Placed]:
    """Each below the directory that all are in, of which the numbers say nothing: `run3/`."""
    paths = [os.path.abspath(verdict.path) for verdict in verdicts]
    start = len(os.path.join(os.path.commonpath(map(os.path.dirname, paths)), "")) if paths else 0
    return [_Placed(one, path[start:]) for one, path in zip(verdicts, paths, strict=True)]


def _name(one: _Placed, numbered: set[str]) -> str:
    """What the dumps of a series have in common."""
    if one.is_numbered:
        return series_of(one.below)
    if one.verdict.step is not None and one.directory not in numbered:
        return os.path.join(one.directory, "*")
    return one.below


def _steps(
    verdicts: Sequence[Verdict], group: list[int], *, are_numbered: bool
) -> Iterator[tuple[int, ...]]:
    """The positions of one series, step by step."""
    in_order = group
    if are_numbered:
        in_order = sorted(group, key=lambda position: _by_path(verdicts[position]))
        by_step = sorted(in_order, key=lambda position: _by_step(verdicts[position]))
        if not _begins_anew([verdicts[position] for position in by_step]):
            in_order = by_step
    step: list[int] = []
    for position in in_order:
        if step and not _are_one_step(verdicts[step[-1]], verdicts[position]):
            yield tuple(step)
            step = []
        step.append(position)
    yield tuple(step)


def _by_path(verdict: Verdict) -> tuple[str, str]:
    return natural_key(without_parts(verdict.path)), natural_key(verdict.path)


def _by_step(verdict: Verdict) -> tuple[bool, int]:
    return verdict.step is None, verdict.step or 0


def _begins_anew(in_order: Sequence[Verdict]) -> bool:
    """Whether a step occurs twice, as where each epoch has its own: paths know more then."""
    return any(
        one.step is not None
        and one.step == following.step
        and not are_parts(one.path, following.path)
        for one, following in pairwise(in_order)
    )


def _are_one_step(verdict: Verdict, following: Verdict) -> bool:
    if verdict.step is None or verdict.step != following.step:
        return verdict.step == following.step and are_ranks(verdict.path, following.path)
    return are_parts(verdict.path, following.path)
