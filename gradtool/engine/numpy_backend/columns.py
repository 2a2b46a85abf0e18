"""The statistics of many sets of elements, a column for each figure, and how they add up.

A set takes a dozen numbers in them, where a `TensorStats` of its own takes hundreds of bytes and
microseconds: rows of a tensor that is not in C order get a few elements from each of its blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gradtool.core.stats import LARGEST_EXACT_POWER, SAFE_EXPONENT, TensorStats
from gradtool.engine.numpy_backend.encodings import Float64

Int64 = NDArray[np.int64]

COUNTS: Final = ("numel", "nan", "posinf", "neginf", "zeros", "subnormals")
"""The figures of `TensorStats` that only add up."""

_COLUMNS: Final = ("power_sum", "error", "scale", "max_abs", "min_abs", "first_nonfinite")

NOWHERE: Final = np.iinfo(np.int64).max
"""The place of the first non-finite element where there is none."""


_STEP: Final = 1 << 12
"""Sets of which figures are made Python's at a time."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Statistics of consecutive sets of elements; see `TensorStats` for what each of them is.

    Attributes:
        norm_type: p.
        first: the number of the first set.
        power_sum: as a sum rounded once, but for what is in `error`.
        error: what rounding took from `power_sum`, itself rounded; together they have 106 bits.
        scale, max_abs, min_abs: as in `TensorStats`.
        first_nonfinite: NOWHERE where there is none.
        counts: a row for each of COUNTS, of any type of integers.
    """

    norm_type: float
    first: int
    power_sum: Float64
    error: Float64
    scale: Float64
    max_abs: Float64
    min_abs: Float64
    first_nonfinite: Int64
    counts: Int64

    @classmethod
    def empty(cls, norm_type: float, first: int, number: int) -> Columns:
        """Those of `number` sets without elements, from number `first` on."""
        zeros, counts = np.zeros((3, number)), np.zeros((len(COUNTS), number), np.int64)
        least = np.full(number, math.inf)
        nowhere = np.full(number, NOWHERE)
        return cls(
            norm_type, first, zeros[0], zeros[1], np.ones(number), zeros[2], least, nowhere, counts
        )

    @classmethod
    def of(cls, stats: Iterable[TensorStats], norm_type: float) -> Columns:
        """Those of sets whose statistics are known, power sums rounded."""
        known = [*stats]
        found = cls.empty(norm_type, 0, len(known))
        for name in ("power_sum", "scale", "max_abs", "min_abs"):
            getattr(found, name)[:] = [getattr(one, name) for one in known]
        found.counts[:] = [[getattr(one, name) for one in known] for name in COUNTS]
        places = (one.first_nonfinite for one in known)
        found.first_nonfinite[:] = [NOWHERE if place is None else place for place in places]
        return found

    def __len__(self) -> int:
        return len(self.power_sum)

    def count(self, name: str) -> Int64:
        """The row of `counts` with this name."""
        row: Int64 = self.counts[COUNTS.index(name)]
        return row

    def add(self, other: Columns, numbers: Int64 | None = None) -> None:
        """Add the elements of other sets to these: to those of the same numbers.

        `numbers` are the numbers of the other sets, ascending, where they are not consecutive.
        """
        at: slice | Int64 = slice(other.first - self.first, other.first - self.first + len(other))
        if numbers is not None:
            at = numbers - self.first
        self.counts[:, at] += other.counts
        self.max_abs[at] = np.maximum(self.max_abs[at], other.max_abs)
        self.min_abs[at] = np.minimum(self.min_abs[at], other.min_abs)
        first = np.minimum(self.first_nonfinite[at], other.first_nonfinite)
        self.first_nonfinite[at] = first
        with np.errstate(all="ignore"):  # as in kernels: what leaves the range is too small
            self._add_powers(other, at)

    def _add_powers(self, other: Columns, at: slice | Int64) -> None:
        """Add power sums, at the scale of the two that has the larger power."""
        mine, scale = self.power_sum[at], self.scale[at]
        parts = [(mine, self.error[at]), (other.power_sum, other.error)]
        if not np.array_equal(scale, other.scale):
            larger = np.maximum if self.norm_type > 0.0 else np.minimum
            top = larger(scale, other.scale)
            top = np.where(mine == 0.0, other.scale, np.where(other.power_sum == 0.0, scale, top))
            factors = [np.power(part / top, self.norm_type) for part in (scale, other.scale)]
            # A sum of 0 has no scale, and its factor may be infinite.
            parts = [
                (
                    np.where(total == 0.0, 0.0, total * factor),
                    np.where(rest == 0.0, 0.0, rest * factor),
                )
                for (total, rest), factor in zip(parts, factors, strict=True)
            ]
            self.scale[at] = top
        (one, rest), (two, other_rest) = parts
        total = one + two
        of_two = total - one
        lost = (one - (total - of_two)) + (two - of_two)  # exact (Knuth, Moller)
        self.power_sum[at] = total
        self.error[at] = (rest + other_rest) + lost

    def packed(self) -> Columns:
        """The same in a third of the memory or so, to be read alone, as many wait to be added."""
        columns: dict[str, Any] = {name: _packed(getattr(self, name)) for name in _COLUMNS}
        narrow = np.min_scalar_type(-1 - int(self.counts.max(initial=0)))  # with a sign, as others
        return replace(self, counts=self.counts.astype(narrow), **columns)

    def chosen(self, places: NDArray[np.intp]) -> Columns:
        """The statistics of the sets at these places; `first` means nothing then."""
        columns = {name: getattr(self, name)[places] for name in _COLUMNS}
        return replace(self, first=0, counts=self.counts[:, places], **columns)

    def negated(self) -> Columns:
        """The statistics of the same elements times -1."""
        order = [COUNTS.index(name) for name in ("numel", "nan", "neginf", "posinf")]
        return replace(self, counts=self.counts[[*order, *range(len(order), len(COUNTS))]])

    def repeated(self, times: int) -> Columns:
        """The statistics of views that name each of the elements `times` times."""
        if times == 1:
            return self
        sums, errors = self.power_sum * times, self.error * times
        return replace(self, power_sum=sums, error=errors, counts=self.counts * times)

    def stats(self) -> Iterator[TensorStats]:
        """The statistics of each set by itself, power sums rounded."""
        sums = self.power_sum + self.error
        columns = (sums, self.scale, self.max_abs, self.min_abs, self.first_nonfinite)
        for start in range(0, len(self), _STEP):
            part = slice(start, start + _STEP)
            figures = [column[part].tolist() for column in columns]
            rows = zip(*figures, *self.counts[:, part].tolist(), strict=True)
            for power_sum, scale, peak, least, first, numel, nan, up, down, zeros, small in rows:
                place = None if first == NOWHERE else first
                yield TensorStats(
                    self.norm_type,
                    numel,
                    power_sum,
                    scale,
                    peak,
                    least,
                    nan,
                    up,
                    down,
                    zeros,
                    small,
                    place,
                )


def _packed(column: NDArray[Any]) -> NDArray[Any]:
    """A copy, which takes the memory of one number where all are equal."""
    is_one = len(column) > 0 and bool((column == column[0]).all())
    return np.broadcast_to(column[0], column.shape) if is_one else column.copy()


def together(one: Columns | None, other: Columns) -> Columns:
    """The elements of both, set by set."""
    if one is None:
        return other
    first = min(one.first, other.first)
    stop = max(one.first + len(one), other.first + len(other))
    if (first, stop) != (one.first, one.first + len(one)):
        whole = Columns.empty(one.norm_type, first, stop - first)
        whole.add(one)
        one = whole
    one.add(other)
    return one


def power_scales(peaks: Float64, norm_type: float) -> Float64:
    """What `core.stats.power_scale` gives for each of the peaks."""
    scales = np.ones(len(peaks))
    if math.isinf(norm_type):
        return scales
    exponents = np.frexp(peaks)[1] - 1
    is_extreme = (np.abs(exponents * norm_type) > SAFE_EXPONENT) | (abs(norm_type) > SAFE_EXPONENT)
    is_extreme &= (peaks > 0.0) & np.isfinite(peaks)
    is_exact = abs(norm_type) <= LARGEST_EXACT_POWER
    scales[is_extreme] = np.ldexp(1.0, exponents[is_extreme]) if is_exact else peaks[is_extreme]
    return scales
