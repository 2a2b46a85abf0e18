"""The distances of tensors as a `Comparison`; computed by NumPy, whatever the backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradtool.core.comparing import distance
from gradtool.core.comparing.distance import Distance
from gradtool.core.comparing.tolerance import EXACT, Tolerance
from gradtool.engine.numpy_backend import distances
from gradtool.engine.numpy_backend.elements import Walk
from gradtool.engine.numpy_backend.many_distances import distances_of_many
from gradtool.engine.numpy_backend.operands import Operand
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

    def of(self, blocks: BlockPair) -> Distance:
        """See `Comparison`; both tensors are real, or both complex."""
        one, other = blocks.dtypes
        walk = Walk(blocks.positions, blocks.places.is_ascending)
        a = Operand(blocks.first, one, self.divisors[0])
        b = Operand(blocks.second, other, self.divisors[1])
        return distances.distance(a, b, walk, self.tolerance)

    def of_many(self, blocks: ManyBlocks) -> list[tuple[int, Distance]]:
        """See `Comparison`."""
        a, b = (
            Operand(raw, blocks.dtype, divisor)
            for raw, divisor in zip((blocks.first, blocks.second), self.divisors, strict=True)
        )
        found = distances_of_many(a, b, blocks.counts, self.tolerance)
        return list(zip(blocks.pairs, found, strict=True))

    def merged(self, parts: Sequence[Distance]) -> Distance:
        """See `Comparison`."""
        return distance.merged(parts)
