"""What the results of tasks are about, and what elements are reduced with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic

from gradtool.core.shapes.rows import Bands
from gradtool.engine.backend import Backend
from gradtool.engine.reading.banding import reduced_by_band
from gradtool.engine.reading.reductions import Elements, Part, Reduction

NAMED, UNIQUE, UNIQUE_IN_SECTION, FIRST_BAND = range(4)
"""Which elements of a tensor a result is about: all that it names, those that no tensor before it
names, and those that no tensor before it in its section names; or, from FIRST_BAND on, all that it
names in one band of its rows.
"""

Target = tuple[int, int]
"""What a result is about: a tensor's position in the plan, and one of the above."""

Results = list[tuple[Target, Part]]


@dataclass(frozen=True, slots=True)
class Reducing(Generic[Part]):
    """What elements are reduced with, and the bands of the tensors of which rows are told apart."""

    reduction: Reduction[Part]
    backend: Backend
    bands: Mapping[int, Bands]

    def of(self, elements: Elements) -> list[Part]:
        """The result of each segment."""
        return self.reduction.of(elements, self.backend)

    def by_band(self, target: int, elements: Elements) -> Iterator[tuple[Target, Part]]:
        """The results of the bands that one segment of a tensor has elements of."""
        if target in self.bands:
            found = reduced_by_band(elements, self.bands[target], self.reduction)
            for band, part in found:
                yield (target, FIRST_BAND + band), part
