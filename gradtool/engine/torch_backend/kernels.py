"""The statistics of the GPU backend, of many segments at once, on the device that holds them.

All segments lie in one flat tensor, each from a new row of `ROW` elements on, with zeros after it.
Sums of squares come from `torch._foreach_norm` over views of the segments, everything else from
reductions over the rows. The results are fetched once, and put together by segment on the CPU. A
second pass is made only where the first one finds NaN or Inf, or for a p or magnitudes whose powers
need a scale.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradtool.core.dtypes import DTYPES, DType
from gradtool.core.stats import TensorStats, merge, power_scale
from gradtool.engine.numpy_backend.encodings import F64, Encoding, encoding_of, encoding_of_moduli
from gradtool.engine.torch_backend.encodings import (
    INTEGERS,
    ROW,
    moduli_of,
    padded,
    real_values,
    rows_of,
)

_NOWHERE: Final = 1 << 62

Column = NDArray[Any]
"""An int64 or float64 on the CPU for each row, view or segment."""


def stats(
    raw: Tensor, dtype: DType, counts: Sequence[int], norm_type: float, *, big_endian: bool = False
) -> list[TensorStats]:
    """Statistics of the segments in `raw`, which may be overwritten.

    Args:
        raw: bytes (uint8) of all segments, each in whole rows of its own, with zeros at the end.
        dtype: type of the elements.
        counts: elements in each segment, none of them 0.
        norm_type: p.
        big_endian: byte order of the elements.

    `first_nonfinite` counts from the start of its segment.
    """
    values = real_values(raw, dtype, big_endian=big_endian)
    if dtype.component is None:
        wide = values.to(torch.float32) if values.itemsize == 1 else values
        return _Segments(wide, encoding_of(dtype), counts, norm_type).stats()
    parts = values.view(-1, 2).to(torch.float64)
    moduli, too_large = moduli_of(parts)
    if dtype.itemsize == 16 and bool(too_large.any()):
        moduli[too_large] = moduli_of(parts[too_large] / 2.0)[0]
        return _halved_stats(moduli, too_large, counts, norm_type)
    encoding = encoding_of_moduli(DTYPES[dtype.component])
    return _Segments(moduli, encoding, counts, norm_type).stats()


def _halved_stats(
    moduli: Tensor, is_halved: Tensor, counts: Sequence[int], p: float
) -> list[TensorStats]:
    """The statistics of segments in which some moduli are halved, as they are too large."""
    merged = []
    start = 0
    for count in counts:
        segment, halved = moduli[start : start + count], is_halved[start : start + count]
        parts = [TensorStats(p)]
        for chosen, divisor in ((segment[~halved], 1.0), (segment[halved], 0.5)):
            if len(chosen):
                (part,) = _Segments(padded(chosen), F64, [len(chosen)], p).stats()
                parts.append(part.divided(divisor))
        bad = (~segment.isfinite()).nonzero()
        first = int(bad[0]) if len(bad) else None
        merged.append(replace(merge(parts, p), first_nonfinite=first))
        start += rows_of(count) * ROW
    return merged


class _NonFinite(NamedTuple):
    """The non-finite elements of each segment: their counts, and the position of the first."""

    nan: Column
    posinf: Column
    neginf: Column
    first: list[int | None]


class _Segments:
    """Segments of one real type, in rows; `stats` overwrites non-finite elements."""

    def __init__(self, values: Tensor, encoding: Encoding, counts: Sequence[int], p: float) -> None:
        self._values = values
        self._encoding = encoding
        self._p = p
        self._bits = values.view(INTEGERS[values.itemsize]).view(-1, ROW)
        self._magnitudes = self._bits & int(encoding.magnitude)
        self._counts = np.array(counts, np.int64)
        self._rows = -(-self._counts // ROW)
        self._starts = np.cumsum(self._rows) - self._rows
        self._views = view_rows(self._rows.tolist(), values.device, most_on_cpu=4)

    def stats(self) -> list[TensorStats]:
        """The statistics of each segment."""
        peaks, zero, small, least, roots = fetched(
            self._peaks(),
            count_rows(self._magnitudes == 0),
            count_rows(self._magnitudes < self._encoding.smallest_normal),
            self._least(),
            self._norms(),
        )
        zero_counts = np.zeros_like(self._counts)
        bad = _NonFinite(zero_counts, zero_counts, zero_counts, [None] * len(zero_counts))
        if peaks.max() >= self._encoding.infinity:
            bad = self._remove_nonfinite()
            peaks, roots = fetched(self._peaks(), self._norms())
        max_abs = self._numbers(np.maximum, peaks)
        min_abs = self._numbers(np.minimum, least) if len(least) else [math.inf] * len(max_abs)
        zeros = self._joined(np.add, zero) - self._rows * ROW + self._counts
        scales = [power_scale(peak, self._p) for peak in (max_abs if self._p > 0.0 else min_abs)]
        nonzero = self._counts - zeros - bad.nan - bad.posinf - bad.neginf
        columns = (
            self._counts.tolist(),
            self._power_sums(roots, scales, nonzero),
            scales,
            max_abs,
            min_abs,
            bad.nan.tolist(),
            bad.posinf.tolist(),
            bad.neginf.tolist(),
            zeros.tolist(),
            self._joined(np.add, small - zero).tolist(),
            bad.first,
        )
        return [TensorStats(self._p, *row) for row in zip(*columns, strict=True)]

    def _joined(self, reduce: np.ufunc, of_rows: Column) -> Column:
        """The results of each segment, reduced from those of its rows."""
        joined: Column = reduce.reduceat(of_rows, self._starts)
        return joined

    def _numbers(self, reduce: np.ufunc, words: Column) -> list[float]:
        """As `_joined`, for words; the results as numbers."""
        return [self._encoding.value(word) for word in self._joined(reduce, words).tolist()]

    def _peaks(self) -> Tensor:
        return self._magnitudes.amax(dim=1)

    def _least(self) -> Tensor:
        """The smallest magnitude but 0 of each row, infinity for none; empty unless p < 0."""
        if self._p >= 0.0:
            return self._magnitudes.new_empty(0)
        infinity = self._encoding.infinity
        return self._magnitudes.masked_fill(self._magnitudes == 0, infinity).amin(dim=1)

    def _norms(self) -> Tensor:
        return norms(self._values, self._views, self._p)

    def _remove_nonfinite(self) -> _NonFinite:
        """Count and locate the non-finite elements, and put zeros in their places."""
        infinity = self._encoding.infinity
        bad = self._magnitudes >= infinity
        columns = torch.arange(ROW, dtype=torch.int32, device=bad.device)
        nan, posinf, neginf, first = fetched(
            count_rows(self._magnitudes > infinity),
            count_rows(self._bits == infinity),
            count_rows(self._bits == infinity - (1 << 8 * self._bits.itemsize - 1)),
            torch.where(bad, columns, ROW).amin(dim=1),
        )
        self._bits.masked_fill_(bad, 0)
        self._magnitudes.masked_fill_(bad, 0)
        places = np.where(first < ROW, first + np.arange(len(first)) * ROW, _NOWHERE)
        firsts = self._joined(np.minimum, places)
        starts = self._starts * ROW
        return _NonFinite(
            self._joined(np.add, nan),
            self._joined(np.add, posinf),
            self._joined(np.add, neginf),
            [
                None if place == _NOWHERE else place - start
                for place, start in zip(firsts.tolist(), starts.tolist(), strict=True)
            ],
        )

    def _power_sums(self, roots: Column, scales: list[float], nonzero: Column) -> list[float]:
        """The sum of (|g| / scale)^p over each segment's finite elements, for p < 0 without 0."""
        p = self._p
        if p == 0.0:
            return [float(count) for count in nonzero.tolist()]
        if math.isinf(p):
            return [0.0] * len(scales)
        is_plain = [len(roots) > 0 and scale == 1.0 for scale in scales]
        sums = [0.0] * len(scales)
        if any(is_plain):
            views = list(map(len, self._views))
            sums = _sums(np.where(np.repeat(is_plain, views), roots, 0.0) ** p, views)
        if all(is_plain):
            return sums
        # The results of a segment must not depend on those that it is grouped with.
        scaled = self._scaled_sums(scales)
        return [sums[i] if plain else scaled[i] for i, plain in enumerate(is_plain)]

    def _scaled_sums(self, scales: list[float]) -> list[float]:
        # On a CPU row by row: a root with a small p makes an error of the sum larger.
        views = view_rows(self._rows.tolist(), self._values.device, most_on_cpu=1)
        (sums,) = fetched(norms(self._powers(scales), views, 1.0))
        return _sums(sums, list(map(len, views)))

    def _powers(self, scales: list[float]) -> Tensor:
        """(|g| / scale)^p of each element; 0 for zeros, which add nothing for p < 0 either."""
        divisors = torch.tensor(np.repeat(scales, self._rows), device=self._values.device)
        powers = self._values.to(torch.float64).view(-1, ROW).abs().div_(divisors[:, None])
        if self._p != 1.0:
            powers.pow_(self._p)
        if self._p < 0.0:
            powers.masked_fill_(self._magnitudes == 0, 0.0)
        return powers.view(-1)


def norms(values: Tensor, views: list[list[int]], p: float) -> Tensor:
    """The norm of each view, or nothing for a p for which torch needs more than one pass.

    `views` has all rows of `values`, as `view_rows` gives them.
    """
    if p not in (1.0, 2.0):
        return values.new_empty(0, dtype=torch.float64)
    numels = [rows * ROW for rows in itertools.chain.from_iterable(views)]
    return torch.stack(torch._foreach_norm(torch.split(values, numels), p, dtype=torch.float64))


def view_rows(rows: list[int], device: torch.device, most_on_cpu: int) -> list[list[int]]:
    """The rows of each view that a segment is cut into, given the rows of each segment.

    On a GPU a segment is one view. A CPU gets few rows at a time, as torch adds one element after
    another there and loses digits by it.
    """
    if device.type != "cpu":
        return [[count] for count in rows]
    most = most_on_cpu
    return [[most] * (count // most) + [count % most] * (count % most > 0) for count in rows]


def count_rows(chosen: Tensor) -> Tensor:
    """How many are chosen in each row; by default torch would make 64-bit numbers of all first."""
    return chosen.sum(dim=1, dtype=torch.int32)


def fetched(*columns: Tensor) -> list[Column]:
    """Columns of float64 or of integers, copied to the CPU together."""
    # One copy and one wait for all of them: the bits of floats travel as integers.
    words = [
        column.view(torch.int64) if column.is_floating_point() else column.to(torch.int64)
        for column in columns
    ]
    on_cpu = torch.split(torch.cat(words).cpu(), [len(column) for column in columns])
    return [
        word.view(column.dtype).numpy() if column.is_floating_point() else word.numpy()
        for word, column in zip(on_cpu, columns, strict=True)
    ]


def _sums(values: Column, counts: list[int]) -> list[float]:
    """The sums of so many consecutive values each, every sum rounded once."""
    remaining = iter(values.tolist())
    return [math.fsum(itertools.islice(remaining, count)) for count in counts]
