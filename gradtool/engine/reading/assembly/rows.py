"""From the statistics of bands of stored parts to the rows of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradtool.core.measurement import TensorMeasurement
from gradtool.core.shapes.boxes import Box
from gradtool.core.shapes.rows import Bands, RowMeasurement
from gradtool.core.shapes.strides import repetitions
from gradtool.core.stats import TensorStats
from gradtool.core.tensors import TensorSpec
from gradtool.engine.numpy_backend.columns import NOWHERE, Columns
from gradtool.engine.overlaps.sharing import Sharing
from gradtool.engine.overlaps.views import Int64
from gradtool.engine.reading.banding import has_equal_rows, numbers_of_rows
from gradtool.engine.reading.targets import NAMED, OfBands, Target


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of the stored parts of tensors, by target, and of which bands that is.

    `bands` are those of parts by target, as `bands_of_parts` has them.
    """

    sharing: Sharing
    stats: Mapping[Target, TensorStats]
    bands: Mapping[int, Bands]
    of_bands: OfBands
    norm_type: float
    loss_scale: float

    def of_part(self, index: int, part: TensorSpec) -> tuple[Int64, Columns]:
        """The first rows of bands of a part, ascending, and the statistics of what is stored."""
        target = self.sharing.same_as.get(index, index)
        times = 1 if part.strides is None else repetitions(part.shape, part.strides)
        if has_equal_rows(part):  # no bands are read of it: see `bands_of_parts`
            one = self.stats[target, NAMED].repeated(times // part.shape[0])
            starts = range(0, part.numel, part.numel // part.shape[0])
            alike = Columns.of([one.moved(start) for start in starts], self.norm_type)
            return np.arange(part.shape[0]), alike
        found = self.of_bands[target].repeated(times)
        return np.asarray(self.bands[target].cuts[:-1], np.int64), found


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
    whole = Columns.empty(found.norm_type, 0, len(bands))
    boxes = [chunk.box for chunk in spec.chunks] or [Box((0,) * len(spec.shape), spec.shape)]
    for number, (box, part) in enumerate(zip(boxes, spec.parts, strict=True), index):
        if part.numel:
            starts, of_part = found.of_part(number, part)
            numbers = numbers_of_rows(bands, starts + box.offsets[0])
            _add(whole, numbers, _placed(of_part, part, box, spec.shape))
    for band, stats in enumerate(whole.stats()):
        row = stats.divided(found.loss_scale)
        yield RowMeasurement(bands.cuts[band], bands.cuts[band + 1], row)


def _placed(columns: Columns, part: TensorSpec, box: Box, shape: tuple[int, ...]) -> Columns:
    """The statistics of bands of a part, a box of a shape, as those of the tensor."""
    if part.is_negated and part.dtype.kind == "float":
        columns = columns.negated()
    if box.sizes == shape:
        return columns
    firsts = columns.first_nonfinite.copy()
    bad = np.flatnonzero(firsts != NOWHERE)
    firsts[bad] = [box.position(place, shape) for place in firsts[bad].tolist()]
    return replace(columns, first_nonfinite=firsts)


def _add(whole: Columns, numbers: Int64, columns: Columns) -> None:
    """Add bands to those with these numbers, which may repeat where a part has narrower ones."""
    same = np.diff(numbers, prepend=-1) == 0
    places = np.arange(len(numbers))
    # How many of the bands before each one go to the same.
    seen = places - np.maximum.accumulate(np.where(same, 0, places))
    for turn in range(int(seen.max()) + 1):
        chosen = np.flatnonzero(seen == turn)
        whole.add(columns.chosen(chosen), numbers[chosen])
