"""What the results of tasks are about, and what elements are reduced with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Generic

from gradtool.core.shapes.rows import Bands
from gradtool.engine.backend import Backend
from gradtool.engine.numpy_backend.columns import Columns, together
from gradtool.engine.reading.banding import statistics_by_band
from gradtool.engine.reading.reductions import Elements, Part, Reduction

NAMED, UNIQUE, UNIQUE_IN_SECTION = range(3)
"""Which elements of a tensor a result is about: all that it names, those that no tensor before it
names, and those that no tensor before it in its section names.
"""

Target = tuple[int, int]
"""What a result is about: a tensor's position in the plan, and one of the above."""

Results = list[tuple[Target, Part]]

OfBands = dict[int, Columns]
"""The statistics of bands of tensors, by the tensors' positions in the plan."""


@dataclass(frozen=True, slots=True)
class Apart:
    """The tensors of which rows are told apart: their bands, by their positions in the plan.

    `norm_type` is that of the statistics of each band.
    """

    norm_type: float = 2.0
    bands: Mapping[int, Bands] = field(default_factory=dict)


NOTHING_APART: Final = Apart()


@dataclass(frozen=True, slots=True)
class Reducing(Generic[Part]):
    """What the elements of a task are reduced with, and what was found of bands on the way."""

    reduction: Reduction[Part]
    backend: Backend
    apart: Apart
    of_bands: OfBands = field(default_factory=dict)

    def of(self, elements: Elements) -> list[Part]:
        """The result of each segment."""
        return self.reduction.of(elements, self.backend)

    def tell_apart(self, target: int, elements: Elements) -> None:
        """Add one segment of a tensor to the bands that it has elements of, if it has bands."""
        bands = self.apart.bands.get(target)
        if bands is not None:
            found = statistics_by_band(elements, bands, self.apart.norm_type)
            self.of_bands[target] = together(self.of_bands.get(target), found)
