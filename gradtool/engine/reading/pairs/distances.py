"""The distances of tensors as a `Comparison`; computed by NumPy, whatever the backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradtool.core.comparing import distance
from gradtool.core.comparing.distance import Distance
from gradtool.core.comparing.tolerance import EXACT, Tolerance
from gradtool.engine.numpy_backend import distances
from gradtool.engine.numpy_backend.elements import Walk
from gradtool.engine.numpy_backend.operands import Operand
from gradtool.engine.reading.pairs.comparisons import BlockPair


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

    def merged(self, parts: Sequence[Distance]) -> Distance:
        """See `Comparison`."""
        return distance.merged(parts)
