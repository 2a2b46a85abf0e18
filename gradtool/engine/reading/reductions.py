"""What is computed of blocks of elements, and how the results of parts merge into a tensor's."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gradtool.core import stats as statistics
from gradtool.core.dtypes import DType
from gradtool.core.stats import TensorStats
from gradtool.engine.backend import Backend

Positions = Callable[[NDArray[np.intp]], NDArray[np.int64]]

Part = TypeVar("Part")
Key = TypeVar("Key", bound=Hashable)

MOST_PARTS: Final = 8
"""Results of parts of one target that are kept before they are merged: merging a few takes no
longer for each than merging many.
"""


@dataclass(frozen=True, slots=True)
class Elements:
    """Elements in memory: segments one after another, each of one tensor.

    Attributes:
        raw: their bytes, laid out as `Backend.offsets` says.
        dtype: their type.
        big_endian: their byte order.
        counts: elements in each segment.
        firsts: the C-order position of each segment's first element in its tensor.
        positions: from places to C-order positions in their tensor, where that is one and not in
            C order; else None. Places count from the start of the only segment, or as `firsts`.
        subnormals: which elements were subnormal as they are stored, of all segments one after
            another, where elements are what was computed of these; else None.
    """

    raw: NDArray[Any]
    dtype: DType
    big_endian: bool
    counts: Sequence[int]
    firsts: Sequence[int]
    positions: Positions | None = None
    subnormals: NDArray[np.bool_] | None = None


class Merging(Protocol[Part]):
    """Something to compute part by part; a plain value that goes to any process."""

    def merged(self, parts: Sequence[Part]) -> Part:
        """The result of all parts together, however grouped; of no parts, that of no elements."""


class Reduction(Merging[Part], Protocol):
    """Something to compute of tensors."""

    def of(self, elements: Elements, backend: Backend) -> list[Part]:
        """The result of each segment, a plain value that goes to any process."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """The statistics of `core.stats`, for norms of order `norm_type`."""

    norm_type: float

    def of(self, elements: Elements, backend: Backend) -> list[TensorStats]:
        """See `Reduction`; `first_nonfinite` is a C-order position in the tensor."""
        raw, dtype, big_endian = elements.raw, elements.dtype, elements.big_endian
        parts = backend.stats(raw, dtype, elements.counts, self.norm_type, big_endian=big_endian)
        if elements.subnormals is not None:
            parts = _with_subnormals(parts, elements.subnormals)
        if elements.positions is None:
            return [part.moved(first) for first, part in zip(elements.firsts, parts, strict=True)]
        (stats,) = parts
        if stats.first_nonfinite is None:
            return parts
        bad = backend.nonfinite_positions(raw, dtype, big_endian=big_endian)
        return [replace(stats, first_nonfinite=int(elements.positions(bad).min()))]

    def merged(self, parts: Sequence[TensorStats]) -> TensorStats:
        """See `Reduction`."""
        return statistics.merge(parts, self.norm_type)


def _with_subnormals(
    parts: Sequence[TensorStats], subnormals: NDArray[np.bool_]
) -> list[TensorStats]:
    """The statistics of segments with the number of elements that were subnormal as stored."""
    counted, start = [], 0
    for part in parts:
        stop = start + part.numel
        counted.append(replace(part, subnormals=int(np.count_nonzero(subnormals[start:stop]))))
        start = stop
    return counted


class Gathered(Generic[Key, Part]):
    """Results of parts, by what they are about, in the order in which they come.

    They are merged on the way where there are many, so that memory stays constant.
    """

    def __init__(self, merging: Merging[Part], results: Iterable[tuple[Key, Part]] = ()) -> None:
        self._merging = merging
        self._parts_of: dict[Key, list[Part]] = {}
        self.add(results)

    def add(self, results: Iterable[tuple[Key, Part]]) -> None:
        """Add the next results."""
        for key, part in results:
            parts = self._parts_of.setdefault(key, [])
            parts.append(part)
            if len(parts) >= MOST_PARTS:
                parts[:] = [self._merging.merged(parts)]

    def merged(self) -> dict[Key, Part]:
        """One result for each key, in the order in which keys first came."""
        return {key: self._merging.merged(parts) for key, parts in self._parts_of.items()}
