"""Rows of tensors, which their first axis counts: how they are named, told apart and measured."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from gradtool.core.stats import TensorStats

_INDEX: Final = re.compile(r"(.+)\[(-?\d{1,18})\]", re.DOTALL | re.ASCII)
_RANGE: Final = re.compile(r"(.+)\[(-?\d{1,18})?:(-?\d{1,18})?\]", re.DOTALL | re.ASCII)

Cuts: TypeAlias = "tuple[int, ...] | range"
"""Rows at which bands begin, ascending, and the number of rows; a range where each row is one."""


class Cut(NamedTuple):
    """Rows of a tensor of known shape, from `start` to before `stop`.

    `is_one` says that it is one row by itself, a tensor without the first axis, as NumPy has it.
    """

    start: int
    stop: int
    is_one: bool = False

    def __str__(self) -> str:
        return f"[{self.start}]" if self.is_one else f"[{self.start}:{self.stop}]"


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of the tensors that a glob names, as `embedding.weight[0]` and `*.wte[-4:]` do.

    Attributes:
        text: as it was given.
        glob: over the names of the tensors.
        start, stop: as in Python's slices, counted from the end where negative.
        is_indexed: whether an index was given; else all rows are meant, of what has none too.
        is_one: whether that is one number, `[i]`.
    """

    text: str
    glob: str
    start: int | None = None
    stop: int | None = None
    is_indexed: bool = False
    is_one: bool = False

    @classmethod
    def read(cls, text: str) -> Rows:
        """A final `[i]` or `[i:j]` is an index, and no part of the glob."""
        if match := _INDEX.fullmatch(text):
            row = int(match[2])
            stop = row + 1 if row != -1 else None
            return cls(text, match[1], row, stop, is_indexed=True, is_one=True)
        if match := _RANGE.fullmatch(text):
            start, stop = (None if part is None else int(part) for part in match.groups()[1:])
            return cls(text, match[1], start, stop, is_indexed=True)
        return cls(text, text)

    def of(self, shape: Sequence[int]) -> range | None:
        """The rows of a tensor of that shape; None where it has no such rows, or no rows at all."""
        size = shape[0] if shape else 0
        ends = [end for end in (self.start, self.stop) if end is not None]
        if not shape or not all(-size <= end <= size for end in ends):
            return None
        found = range(size)[self.start : self.stop]
        return found or None

    def cut(self, shape: Sequence[int]) -> Cut | None:
        """The same as `of`, where an index was given."""
        found = self.of(shape) if self.is_indexed else None
        return None if found is None else Cut(found.start, found.stop, self.is_one)


@dataclass(frozen=True, slots=True)
class Bands:
    """The rows of a tensor in bands, each of which is measured by itself.

    Attributes:
        cuts: where they begin; the last one is the number of rows.
        row_numel: elements of a row.
    """

    cuts: Cuts
    row_numel: int

    @classmethod
    def each_row(cls, shape: Sequence[int]) -> Bands:
        """Each row of a shape is a band."""
        return cls(range(shape[0] + 1), math.prod(shape[1:]))

    @classmethod
    def around(cls, ranges: Iterable[range], shape: Sequence[int]) -> Bands:
        """Bands that begin and end where some ranges of rows do."""
        ends = {end for found in ranges for end in (found.start, found.stop)}
        return cls(tuple(sorted({0, shape[0], *ends})), math.prod(shape[1:]))

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def at(self, row: int) -> int:
        """The number of the band that holds a row."""
        return bisect_right(self.cuts, row) - 1

    def within(self, start: int, sizes: Sequence[int]) -> Bands:
        """The bands of the rows from `start` on of a part of these sizes, counted from there."""
        if isinstance(self.cuts, range):
            return self.each_row(sizes)
        inner = (cut - start for cut in self.cuts if start < cut < start + sizes[0])
        return Bands((0, *inner, sizes[0]), math.prod(sizes[1:]))

    def cut_like(self, other: Bands | None) -> Bands:
        """Bands that begin where these do, and where others of the same rows do."""
        if other is None or isinstance(self.cuts, range):
            return self
        if isinstance(other.cuts, range):
            return other
        return Bands(tuple(sorted({*self.cuts, *other.cuts})), self.row_numel)


@dataclass(frozen=True, slots=True)
class RowMeasurement:
    """Figures of one row of a tensor, or of several that follow each other.

    Attributes:
        start, stop: the first of them, and the one after the last.
        stats: over their elements; `first_nonfinite` is a position in the tensor.
    """

    start: int
    stop: int
    stats: TensorStats

    @property
    def index(self) -> int:
        """The first row."""
        return self.start

    @property
    def norm(self) -> float:
        """By the rules of IEEE and torch, see `TensorStats.norm`."""
        return self.stats.norm

    @property
    def finite_norm(self) -> float:
        """The norm of the finite elements."""
        return self.stats.finite_norm

    def share(self, whole: TensorStats) -> float | None:
        """Its share of the sum of powers of a whole, from 0 to 1; None for p <= 0 and infinite p.

        Non-finite elements have no part in it.
        """
        p, total = whole.norm_type, whole.finite_norm
        if not 0.0 < p < math.inf or not 0.0 < total < math.inf:
            return None
        return math.pow(min(self.finite_norm / total, 1.0), p)
