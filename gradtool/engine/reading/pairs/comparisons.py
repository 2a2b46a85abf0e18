"""What two blocks of elements are reduced to, and how the results of parts merge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gradtool.core.dtypes import DType
from gradtool.engine.backend import Backend, Bytes
from gradtool.engine.numpy_backend.operands import are_equal
from gradtool.engine.overlaps.views import Int64
from gradtool.engine.reading.pairs.regions import Places
from gradtool.engine.reading.reductions import Merging

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class BlockPair:
    """Elements of one tensor and those at the same indices of another, in memory.

    Attributes:
        first, second: their bytes (uint8), as little-endian elements one after another; not to be
            changed, and valid until the comparison returns.
        dtypes: the types of the elements.
        numel: how many elements each block has; at least one.
        start: the place of the first of them in the walk of `places`.
        places: where they are.
    """

    first: Bytes
    second: Bytes
    dtypes: tuple[DType, DType]
    numel: int
    start: int
    places: Places

    def positions(self, steps: NDArray[np.intp]) -> Int64:
        """C-order positions, in the whole tensor, of the elements that far into the blocks."""
        return self.places.positions(steps + self.start)


class ManyBlocks(NamedTuple):
    """Small tensors of one real type, whole, one after another in C order.

    Attributes:
        pairs: the position of each pair in the plan.
        first, second: their bytes, as those of a `BlockPair`.
        dtype: the type of the elements.
        counts: elements of each tensor; at least one.
    """

    pairs: list[int]
    first: Bytes
    second: Bytes
    dtype: DType
    counts: list[int]


class Comparison(Merging[Part], Protocol):
    """Something to compute of pairs of tensors."""

    def of(self, blocks: BlockPair, backend: Backend) -> Part:
        """The result of two blocks, a plain value that goes to any process."""

    def of_many(self, blocks: ManyBlocks, backend: Backend) -> list[tuple[int, Part]]:
        """The results of many small pairs, each with the position of the pair in the plan."""


@dataclass(frozen=True, slots=True)
class Differing:
    """How many elements differ, and the C-order position of the first; None where none does."""

    count: int = 0
    first: int | None = None


@dataclass(frozen=True, slots=True)
class ByteEquality:
    """Which elements have the same bytes: a NaN equals itself, and 0 does not equal -0.

    Elements of two types are never the same. The CPU compares, whatever the backend: it does so as
    fast as it reads.
    """

    def of(self, blocks: BlockPair, backend: Backend) -> Differing:  # noqa: ARG002
        """See `Comparison`."""
        first, second = blocks.dtypes
        if first != second:
            return _differing(np.arange(blocks.numel), blocks)
        if are_equal(blocks.first, blocks.second):
            return Differing()
        words, parts = f"u{min(first.itemsize, 8)}", max(first.itemsize // 8, 1)
        differ = blocks.first.view(words) != blocks.second.view(words)
        return _differing(np.flatnonzero(differ.reshape(-1, parts).any(axis=1)), blocks)

    def of_many(
        self,
        blocks: ManyBlocks,
        backend: Backend,  # noqa: ARG002
    ) -> list[tuple[int, Differing]]:
        """See `Comparison`."""
        ends = np.cumsum(blocks.counts)
        differ = blocks.first.view(f"u{blocks.dtype.itemsize}") != blocks.second.view(
            f"u{blocks.dtype.itemsize}"
        )
        places = np.flatnonzero(differ)
        bounds = np.searchsorted(places, [0, *ends]).tolist()
        starts = (ends - blocks.counts).tolist()
        found = zip(blocks.pairs, starts, pairwise(bounds), strict=True)
        return [
            (pair, Differing(high - low, int(places[low]) - start if high > low else None))
            for pair, start, (low, high) in found
        ]

    def merged(self, parts: Sequence[Differing]) -> Differing:
        """See `Comparison`."""
        firsts = [part.first for part in parts if part.first is not None]
        return Differing(sum(part.count for part in parts), min(firsts, default=None))


def _differing(steps: NDArray[np.intp], blocks: BlockPair) -> Differing:
    candidates = steps[:1] if blocks.places.is_ascending else steps
    return Differing(len(steps), int(blocks.positions(candidates).min()))
