"""Two blocks compared in groups that fit into a device: bits first, figures only if any differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gradtool.core.comparing.distance import (
    Distance,
    Products,
    added,
    kept_samples,
    largest_of,
)
from gradtool.core.comparing.sums import NOTHING, ScaledSum
from gradtool.core.comparing.tolerance import Tolerance
from gradtool.core.stats import TensorStats, merge
from gradtool.engine.numpy_backend.products import Sums, together, total_of
from gradtool.engine.operands import Operand, Walk, have_one_code
from gradtool.engine.torch_backend import kernels
from gradtool.engine.torch_backend.distances import Comparing, Figures
from gradtool.engine.torch_backend.groups import Group
from gradtool.engine.torch_backend.workers import DeviceWorker


class _Part(NamedTuple):
    """Of one group: the statistics of both sides, and their figures unless all bits are equal."""

    a: list[TensorStats]
    b: list[TensorStats]
    figures: Figures | None


def distance(
    a: Operand, b: Operand, walk: Walk, tolerance: Tolerance, worker: DeviceWorker, most: int
) -> Distance:
    """What there is to say of two blocks; see `Backend`.

    Groups have at most `most` elements. What is said does not depend on them: a group of equal bits
    in a block that has others is summed as these are.
    """

    def compare(group: Group, *, bits_first: bool) -> _Part:
        raws = _staged(worker, group, a), _staged(worker, group, b)
        if bits_first and _are_equal(*raws):
            stats = _stats(raws[0], group, a)
            return _Part(stats, stats, None)
        start = group.spans[0].start
        figures = Comparing(raws, (a, b), walk, start, tolerance).figures()
        return _Part(_stats(raws[0], group, a), _stats(raws[1], group, b), figures)

    def parts_of(group: Group, *, bits_first: bool) -> list[tuple[Group, _Part]]:
        return worker.in_groups(group, most, lambda one: compare(one, bits_first=bits_first))

    found = parts_of(Group.of([a.numel], a.dtype), bits_first=have_one_code(a, b))
    if all(part.figures is None for _, part in found):
        stats = _merged(found, a, lambda part: part.a)
        # The statistics of complex numbers beyond float64 hold no sum of squares.
        if stats.max_abs < math.inf:
            return Distance.of_equals(stats)
    found = [
        one
        for group, part in found
        for one in ([(group, part)] if part.figures else parts_of(group, bits_first=False))
    ]
    of_a, of_b = _merged(found, a, lambda part: part.a), _merged(found, b, lambda part: part.b)
    figures = [part.figures for _, part in found if part.figures is not None]
    return _of_figures(figures, of_a, of_b, (a, b))


def _staged(worker: DeviceWorker, group: Group, side: Operand) -> Tensor:
    own = group._replace(dtype=side.dtype)
    return worker.staged(side.raw[own.bytes], group.numel * side.dtype.itemsize)


def _are_equal(first: Tensor, second: Tensor) -> bool:
    return torch.equal(first.view(torch.int64), second.view(torch.int64))


def _stats(raw: Tensor, group: Group, side: Operand) -> list[TensorStats]:
    """The statistics of each span; `raw` may be overwritten."""
    numels = [span.numel for span in group.spans]
    return kernels.stats(raw, side.dtype, numels, 2.0)


def _merged(
    found: Sequence[tuple[Group, _Part]],
    side: Operand,
    stats_of: Callable[[_Part], list[TensorStats]],
) -> TensorStats:
    whole = merge([stats for _, part in found for stats in stats_of(part)], 2.0)
    return replace(whole, first_nonfinite=None).divided(side.divisor)


def _of_figures(
    found: Sequence[Figures], of_a: TensorStats, of_b: TensorStats, sides: tuple[Operand, Operand]
) -> Distance:
    differing = sum(one.differing for one in found)
    a, b = sides
    return Distance(
        numel=of_a.numel,
        a=of_a,
        b=of_b,
        products=added([*_products(found)]),
        differing=differing,
        samples=kept_samples((sample for one in found for sample in one.samples), differing),
        largest=largest_of([one.largest for one in found if one.largest is not None]),
        opposite_signs=sum(one.opposite for one in found),
        max_ulps=max(one.ulps for one in found) if have_one_code(a, b) else None,
        rounded_apart=None if a.dtype == b.dtype else sum(one.rounded_apart for one in found),
        zero_signs=sum(one.zero_signs for one in found),
        same_nan=sum(one.same_nan for one in found),
        outside=sum(one.outside for one in found),
    )


def _products(found: Sequence[Figures]) -> Iterator[Products]:
    """The sums of all rows of groups that were scaled alike, as all are but for extreme numbers."""
    ordered = sorted(found, key=lambda one: one.exponents)
    for (ea, eb, ed), group in groupby(ordered, lambda one: one.exponents):
        alike = list(group)
        sums = Sums(*map(np.concatenate, zip(*(one.sums for one in alike), strict=True)))
        dd = total_of(np.concatenate([one.squares for one in alike]))
        yield together(sums, ScaledSum(dd, 2 * ed) if dd else NOTHING, ea, eb)
