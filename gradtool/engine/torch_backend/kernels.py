"""The GPU backend's statistics: of many tensors at once, on the device that they are on.

A group of tensors lies in one flat tensor, each from a new row of `ROW` elements on, with zeros
after it. Sums of squares come from `torch._foreach_norm` over views of the tensors, everything
else from reductions over the rows. What they find is fetched once, and put together by tensor
on the CPU. A second look is taken only where the first one found NaN or Inf, or for a p or
magnitudes of which the powers need more than that.
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
from gradtool.engine.numpy_backend.encodings import F64, Encoding, encoding_of, sizes_of
from gradtool.engine.torch_backend.encodings import (
    INTEGERS,
    ROW,
    magnitudes,
    padded,
    real_values,
    rows_of,
)

_NOWHERE: Final = 1 << 62

Found = NDArray[Any]
"""An int64 or float64 on the CPU for each row, view or segment."""


def stats(
    raw: Tensor, dtype: DType, counts: Sequence[int], norm_type: float, *, big_endian: bool = False
) -> list[TensorStats]:
    """Statistics of the segments in `raw`, which may be overwritten.

    Args:
        raw: bytes (uint8) of all segments, each in whole rows of its own, with zeros at the end.
        dtype: their type.
        counts: elements in each segment, none of them 0.
        norm_type: p.
        big_endian: byte order of the elements.

    `first_nonfinite` counts from the start of its segment.
    """
    values = real_values(raw, dtype, big_endian=big_endian)
    if dtype.component is None:
        wide = values.to(torch.float32) if values.itemsize == 1 else values
        return _Group(wide, encoding_of(dtype), counts, norm_type).stats()
    parts = values.view(-1, 2).to(torch.float64)
    sizes, beyond = magnitudes(parts)
    if dtype.itemsize == 16 and bool(beyond.any()):
        sizes[beyond] = magnitudes(parts[beyond] / 2.0)[0]
        return _stats_beyond(sizes, beyond, counts, norm_type)
    return _Group(sizes, sizes_of(DTYPES[dtype.component]), counts, norm_type).stats()


def _stats_beyond(
    sizes: Tensor, beyond: Tensor, counts: Sequence[int], p: float
) -> list[TensorStats]:
    """Segments in which some magnitudes are beyond float64, and given as their halves."""
    found = []
    start = 0
    for count in counts:
        here, halved = sizes[start : start + count], beyond[start : start + count]
        parts = [TensorStats(p)]
        for chosen, divisor in ((here[~halved], 1.0), (here[halved], 0.5)):
            if len(chosen):
                (one,) = _Group(padded(chosen), F64, [len(chosen)], p).stats()
                parts.append(one.divided(divisor))
        bad = (~here.isfinite()).nonzero()
        merged = merge(parts, p)
        found.append(replace(merged, first_nonfinite=int(bad[0]) if len(bad) else None))
        start += rows_of(count) * ROW
    return found


class _Lost(NamedTuple):
    """By segment: counts of what is not finite, and where the first of it is."""

    nan: Found
    posinf: Found
    neginf: Found
    first: list[int | None]


class _Group:
    """Segments of one real type, in rows; `stats` overwrites what is not finite."""

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
        peaks, zero, small, least, roots = _fetched(
            self._peaks(),
            _count(self._magnitudes == 0),
            _count(self._magnitudes < self._encoding.smallest_normal),
            self._least(),
            self._norms(),
        )
        none = np.zeros_like(self._counts)
        lost = _Lost(none, none, none, [None] * len(none))
        if peaks.max() >= self._encoding.infinity:
            lost = self._take_nonfinite()
            peaks, roots = _fetched(self._peaks(), self._norms())
        max_abs = self._numbers(np.maximum, peaks)
        min_abs = self._numbers(np.minimum, least) if len(least) else [math.inf] * len(max_abs)
        zeros = self._joined(np.add, zero) - self._rows * ROW + self._counts
        scales = [power_scale(one, self._p) for one in (max_abs if self._p > 0.0 else min_abs)]
        nonzero = self._counts - zeros - lost.nan - lost.posinf - lost.neginf
        columns = (
            self._counts.tolist(),
            self._power_sums(roots, scales, nonzero),
            scales,
            max_abs,
            min_abs,
            lost.nan.tolist(),
            lost.posinf.tolist(),
            lost.neginf.tolist(),
            zeros.tolist(),
            self._joined(np.add, small - zero).tolist(),
            lost.first,
        )
        return [TensorStats(self._p, *one) for one in zip(*columns, strict=True)]

    def _joined(self, reduce: np.ufunc, of_rows: Found) -> Found:
        """What was found of rows, reduced to one for each segment."""
        joined: Found = reduce.reduceat(of_rows, self._starts)
        return joined

    def _numbers(self, reduce: np.ufunc, words: Found) -> list[float]:
        return [self._encoding.value(word) for word in self._joined(reduce, words).tolist()]

    def _peaks(self) -> Tensor:
        return self._magnitudes.amax(dim=1)

    def _least(self) -> Tensor:
        """The smallest magnitude but 0 of each row, infinity for none; sought for p < 0 only."""
        if self._p >= 0.0:
            return self._magnitudes.new_empty(0)
        infinity = self._encoding.infinity
        return self._magnitudes.masked_fill(self._magnitudes == 0, infinity).amin(dim=1)

    def _norms(self) -> Tensor:
        return norms(self._values, self._views, self._p)

    def _take_nonfinite(self) -> _Lost:
        """What is not finite, of which zeros take the place."""
        infinity = self._encoding.infinity
        bad = self._magnitudes >= infinity
        columns = torch.arange(ROW, dtype=torch.int32, device=bad.device)
        nan, posinf, neginf, first = _fetched(
            _count(self._magnitudes > infinity),
            _count(self._bits == infinity),
            _count(self._bits == infinity - (1 << 8 * self._bits.itemsize - 1)),
            torch.where(bad, columns, ROW).amin(dim=1),
        )
        self._bits.masked_fill_(bad, 0)
        self._magnitudes.masked_fill_(bad, 0)
        places = np.where(first < ROW, first + np.arange(len(first)) * ROW, _NOWHERE)
        firsts = self._joined(np.minimum, places)
        starts = self._starts * ROW
        return _Lost(
            self._joined(np.add, nan),
            self._joined(np.add, posinf),
            self._joined(np.add, neginf),
            [
                None if place == _NOWHERE else place - start
                for place, start in zip(firsts.tolist(), starts.tolist(), strict=True)
            ],
        )

    def _power_sums(self, roots: Found, scales: list[float], nonzero: Found) -> list[float]:
        """The sum of (|g| / scale)^p over each segment's finite elements, for p < 0 but 0."""
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
        # What becomes of a segment must not depend on those that it is grouped with.
        scaled = self._scaled_sums(scales)
        return [sums[i] if plain else scaled[i] for i, plain in enumerate(is_plain)]

    def _scaled_sums(self, scales: list[float]) -> list[float]:
        # On a CPU row by row: a root with a small p makes an error of the sum larger.
        views = view_rows(self._rows.tolist(), self._values.device, most_on_cpu=1)
        (sums,) = _fetched(norms(self._powers(scales), views, 1.0))
        return _sums(sums, list(map(len, views)))

    def _powers(self, scales: list[float]) -> Tensor:
        """(|g| / scale)^p of each element, 0 for zeros, that nothing is added by them for p < 0."""
        divisors = torch.tensor(np.repeat(scales, self._rows), device=self._values.device)
        powers = self._values.to(torch.float64).view(-1, ROW).abs().div_(divisors[:, None])
        if self._p != 1.0:
            powers.pow_(self._p)
        if self._p < 0.0:
            powers.masked_fill_(self._magnitudes == 0, 0.0)
        return powers.view(-1)


def norms(values: Tensor, views: list[list[int]], p: float) -> Tensor:
    """The norm of each view, for a p of which torch takes it in one pass; else of none.

    `views` are as `view_rows` gives them, of all rows of `values`.
    """
    if p not in (1.0, 2.0):
        return values.new_empty(0, dtype=torch.float64)
    numels = [rows * ROW for rows in itertools.chain.from_iterable(views)]
    return torch.stack(torch._foreach_norm(torch.split(values, numels), p, dtype=torch.float64))


def view_rows(rows: list[int], device: torch.device, most_on_cpu: int) -> list[list[int]]:
    """Into views of how many rows to cut segments of so many rows: on a GPU into one each.

    On a CPU torch adds one element after another, and loses digits by it.
    """
    if device.type != "cpu":
        return [[count] for count in rows]
    most = most_on_cpu
    return [[most] * (count // most) + [count % most] * (count % most > 0) for count in rows]


def _count(chosen: Tensor) -> Tensor:
    """How many of each row; torch would count in numbers of 64 bits, made of each bit first."""
    return chosen.sum(dim=1, dtype=torch.int32)


def _fetched(*columns: Tensor) -> list[Found]:
    """Numbers of 64 bits, or integers of less, brought to the CPU together."""
    # One copy and one wait for all of them, the bits of floats travelling as integers.
    words = [
        one.view(torch.int64) if one.is_floating_point() else one.to(torch.int64) for one in columns
    ]
    on_cpu = torch.split(torch.cat(words).cpu(), [len(one) for one in columns])
    return [
        word.view(column.dtype).numpy() if column.is_floating_point() else word.numpy()
        for word, column in zip(on_cpu, columns, strict=True)
    ]


def _sums(values: Found, parts: list[int]) -> list[float]:
    """The sums of so many values each, exact before they are rounded."""
    left = iter(values.tolist())
    return [math.fsum(itertools.islice(left, count)) for count in parts]
