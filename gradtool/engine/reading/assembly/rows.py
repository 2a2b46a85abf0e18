"""From the statistics of bands of rows to the rows of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gradtool.core.measurement import TensorMeasurement
from gradtool.core.shapes.boxes import Box
from gradtool.core.shapes.rows import Bands, RowMeasurement
from gradtool.core.shapes.strides import repetitions
from gradtool.core.stats import TensorStats, merge
from gradtool.core.tensors import TensorSpec
from gradtool.engine.overlaps.sharing import Sharing
from gradtool.engine.reading.assembly.tensors import as_named
from gradtool.engine.reading.banding import has_equal_rows
from gradtool.engine.reading.targets import FIRST_BAND, NAMED, Target


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of the stored parts of tensors, by target, and of which bands that is.

    `bands` are those of parts by target, as `bands_of_parts` has them.
    """

    sharing: Sharing
    stats: Mapping[Target, TensorStats]
    bands: Mapping[int, Bands]
    norm_type: float
    loss_scale: float

    def of_part(self, index: int, part: TensorSpec) -> Iterator[tuple[int, TensorStats]]:
        """What was found of each band of a part, with the band's first row."""
        target = self.sharing.same_as.get(index, index)
        times = 1 if part.strides is None else repetitions(part.shape, part.strides)
        if part.numel and has_equal_rows(part):
            one = as_named(self.stats[target, NAMED], part, self.loss_scale)
            one, row_numel = one.repeated(times // part.shape[0]), part.numel // part.shape[0]
            for row in range(part.shape[0]):
                yield row, one.moved(row * row_numel)
            return
        bands = self.bands.get(target)
        for band in range(0 if bands is None else len(bands)):
            stats = self.stats.get((target, FIRST_BAND + band))
            if bands is not None and stats is not None:
                named = as_named(stats, part, self.loss_scale).repeated(times)
                yield bands.cuts[band], named


def with_rows(
    tensors: Sequence[TensorMeasurement], bands: Mapping[str, Bands], found: Found
) -> Iterator[TensorMeasurement]:
    """The measurements of tensors, with those of the rows that are told apart."""
    index = 0
    for tensor in tensors:
        wanted = bands.get(tensor.name)
        if wanted is not None:
            rows = tuple(_rows(tensor.spec, wanted, index, found))
            yield replace(tensor, rows=rows)
        else:
            yield tensor
        index += len(tensor.spec.parts)


def _rows(spec: TensorSpec, bands: Bands, index: int, found: Found) -> Iterator[RowMeasurement]:
    """The rows of a tensor whose first part is the `index`-th of all."""
    by_band: list[list[TensorStats]] = [[] for _ in range(len(bands))]
    boxes = [chunk.box for chunk in spec.chunks] or [Box((0,) * len(spec.shape), spec.shape)]
    for number, (box, part) in enumerate(zip(boxes, spec.parts, strict=True), index):
        for start, stats in found.of_part(number, part):
            first = stats.first_nonfinite
            place = None if first is None else box.position(first, spec.shape)
            by_band[bands.at(box.offsets[0] + start)].append(replace(stats, first_nonfinite=place))
    for band, parts in enumerate(by_band):
        yield RowMeasurement(bands.cuts[band], bands.cuts[band + 1], merge(parts, found.norm_type))
