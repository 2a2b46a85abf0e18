"""The distances of tensors as a `Comparison`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradtool.core.comparing import distance
from gradtool.core.comparing.distance import Distance
from gradtool.core.comparing.tolerance import EXACT, Tolerance
from gradtool.core.dtypes import DType
from gradtool.engine.backend import Backend
from gradtool.engine.operands import Operand, Walk
from gradtool.engine.reading.pairs.comparisons import BlockPair, ManyBlocks


@dataclass(frozen=True, slots=True)
class Distances:
    """How far apart elements are: bits first, figures only where a block differs.

    Attributes:
        tolerance: what elements are counted as outside of.
        divisors: what the elements of either side are divided by.
    """

    tolerance: Tolerance = EXACT
    divisors: tuple[float, float] = (1.0, 1.0)

    def of(self, blocks: BlockPair, backend: Backend) -> Distance:
        """See `Comparison`; both tensors are real, or both complex."""
        walk = Walk(blocks.positions, blocks.places.is_ascending)
        a, b = self._operands(blocks, blocks.dtypes)
        return backend.distance(a, b, walk, self.tolerance)

    def of_many(self, blocks: ManyBlocks, backend: Backend) -> list[tuple[int, Distance]]:
        """See `Comparison`."""
        a, b = self._operands(blocks, (blocks.dtype, blocks.dtype))
        found = backend.distances(a, b, blocks.counts, self.tolerance)
        return list(zip(blocks.pairs, found, strict=True))

    def merged(self, parts: Sequence[Distance]) -> Distance:
        """See `Comparison`."""
        return distance.merged(parts)

    def _operands(
        self, blocks: BlockPair | ManyBlocks, dtypes: tuple[DType, DType]
    ) -> tuple[Operand, Operand]:
        return (
            Operand(blocks.first, dtypes[0], self.divisors[0]),
            Operand(blocks.second, dtypes[1], self.divisors[1]),
        )
