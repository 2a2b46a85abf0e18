"""What blocks of elements are reduced to, and how the results of parts become those of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gradtool.core import stats as statistics
from gradtool.core.dtypes import DType
from gradtool.core.stats import TensorStats
from gradtool.engine.backend import Backend

Positions = Callable[[NDArray[np.intp]], NDArray[np.int64]]

Part = TypeVar("Part")

MOST_PARTS: Final = 1024
"""Parts of one tensor that are kept apart before they are merged."""


@dataclass(frozen=True, slots=True)
class Elements:
    """Elements of tensors in memory, a segment of each tensor after another.

    Attributes:
        raw: their bytes, laid out as `Backend.offsets` says.
        dtype: their type.
        big_endian: their byte order.
        counts: elements in each segment.
        firsts: the C-order position of each segment's first element in its tensor.
        positions: those of any elements of the only segment, where it is not in C order.
    """

    raw: NDArray[Any]
    dtype: DType
    big_endian: bool
    counts: Sequence[int]
    firsts: Sequence[int]
    positions: Positions | None = None


class Reduction(Protocol[Part]):
    """Something to be found out about tensors: a plain value that goes to any process."""

    def of(self, elements: Elements, backend: Backend) -> list[Part]:
        """What each segment is reduced to: a value that goes to any process."""

    def merged(self, parts: Sequence[Part]) -> Part:
        """What all parts are together, whoever merged some of them before; of none, of nothing."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """The statistics of `core.stats`, for norms of order `norm_type`."""

    norm_type: float

    def of(self, elements: Elements, backend: Backend) -> list[TensorStats]:
        """As `Reduction` has it; `first_nonfinite` is a C-order position in the tensor."""
        raw, dtype, big_endian = elements.raw, elements.dtype, elements.big_endian
        found = backend.stats(raw, dtype, elements.counts, self.norm_type, big_endian=big_endian)
        if elements.positions is None:
            return [stats.moved(first) for first, stats in zip(elements.firsts, found, strict=True)]
        (stats,) = found
        if stats.first_nonfinite is None:
            return found
        bad = backend.nonfinite_positions(raw, dtype, big_endian=big_endian)
        return [replace(stats, first_nonfinite=int(elements.positions(bad).min()))]

    def merged(self, parts: Sequence[TensorStats]) -> TensorStats:
        """As `Reduction` has it."""
        return statistics.merge(parts, self.norm_type)


def folded(parts: list[Part], reduction: Reduction[Part]) -> list[Part]:
    """The same parts, merged where there are many, so that memory stays constant."""
    return [reduction.merged(parts)] if len(parts) >= MOST_PARTS else parts
