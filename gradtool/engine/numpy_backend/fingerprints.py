"""Sums over the bits of a matrix by which rows and columns are known again elsewhere.

A row's sum is of its scrambled words, each times an odd number that belongs to the column: two rows
of the same words in the same places have the same one, and others but for one chance in 2^64 do
not. A sum without these numbers, which belongs to no place, tells which lines have the same words
at all.
All is modulo 2^64, so that blocks may be added in any order.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradtool.core.comparing.second_look import Axis, Moved

Words = NDArray[np.uint64]

_AXES: Final[tuple[Axis, Axis]] = ("rows", "columns")

_MOST_SHIFT: Final = 16
"""Places by which lines may be shifted, where those at the end are gone."""

_LEAST_LINES: Final = 4
"""Different lines of which a shift has to leave so many, and a vector to have, to be known by."""


class Fingerprints:
    """Those of one matrix; blocks are added to it."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._weights = tuple(_weights(size) for size in shape)
        self.lines = tuple(np.zeros(size, np.uint64) for size in shape)
        self.contents = tuple(np.zeros(size, np.uint64) for size in shape)

    def add(self, codes: NDArray[Any], row: int, column: int = 0) -> None:
        """Add a block of words, the first of which is at this place."""
        # Scrambled first: numbers of few digits end in zeros, which a product modulo 2^64 keeps.
        words = _scrambled(codes.astype(np.uint64))
        rows, columns = slice(row, row + len(words)), slice(column, column + words.shape[1])
        of_rows, of_columns = self._weights
        self.lines[0][rows] += words @ of_columns[columns]
        self.lines[1][columns] += of_rows[rows] @ words
        self.contents[0][rows] += words.sum(axis=1, dtype=np.uint64)
        self.contents[1][columns] += words.sum(axis=0, dtype=np.uint64)

    @property
    def are_known_apart(self) -> bool:
        """Whether enough rows are different that those of another matrix are no chance."""
        return len(np.unique(self.lines[0])) >= _LEAST_LINES


class _Lines(NamedTuple):
    """The rows, or the columns, of both matrices."""

    a: Words
    b: Words


def moved(a: Fingerprints, b: Fingerprints) -> Moved | None:
    """How the elements of the first of two matrices of one shape lie in the second."""
    both = [_Lines(*lines) for lines in zip(a.lines, b.lines, strict=True)]
    for what, lines in zip(_AXES, both, strict=True):
        if np.array_equal(np.sort(lines.a), np.sort(lines.b)) and (lines.a != lines.b).any():
            shift = _cyclic(lines)
            places = np.flatnonzero(lines.a != lines.b)
            first = int(places[0])
            at = int(np.flatnonzero(lines.b == lines.a[first])[0])
            return Moved(what, len(places), len(lines.a), (first, at), shift)
    for what, lines in zip(_AXES, both, strict=True):
        cut = _cut(lines)
        if cut is not None:
            return Moved(what, len(lines.a), len(lines.a), None, cut, is_cut=True)
    for within, one, other in zip(_AXES, a.contents, b.contents, strict=True):
        if np.array_equal(one, other):
            return Moved("elements", within=within)
    if a.contents[0].sum(dtype=np.uint64) == b.contents[0].sum(dtype=np.uint64):
        return Moved("elements")
    return None


def _cyclic(lines: _Lines) -> int | None:
    """The least shift that makes all lines of the first those of the second; None for another."""
    size = len(lines.a)
    if len(np.unique(lines.a)) < _LEAST_LINES:
        return None
    starts: list[int] = np.flatnonzero(lines.b == lines.a[0])[:_MOST_SHIFT].tolist()
    for at in starts:
        if np.array_equal(np.roll(lines.a, at), lines.b):
            return at if 2 * at <= size else at - size
    return None


def _cut(lines: _Lines) -> int | None:
    """The shift after which all lines of the first that are still there are those of the second."""
    size = len(lines.a)
    for shift in range(1, min(_MOST_SHIFT, size // 2) + 1):
        for signed, one, other in (
            (shift, lines.a[:-shift], lines.b[shift:]),
            (-shift, lines.a[shift:], lines.b[:-shift]),
        ):
            if np.array_equal(one, other) and len(np.unique(one)) >= _LEAST_LINES:
                return signed
    return None


def _weights(size: int) -> Words:
    weights: Words = _scrambled(np.arange(1, size + 1, dtype=np.uint64)) | np.uint64(1)
    return weights


def _scrambled(words: Words) -> Words:
    """Each word as one of which every bit depends on all of it. Source: splitmix64 (Vigna)."""
    mixed: Words = words + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return mixed
