"""Groups of elements that are on a device at a time, in whole rows, and how they are halved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Self

from gradtool.core.dtypes import DType
from gradtool.engine.torch_backend.encodings import ROW, rows_of

GROUP_NUMEL: Final = 8 << 20
"""Elements of the largest group that one thread puts on a device, if its memory allows it."""

SPAN_NUMEL: Final = 64 * ROW
"""Elements that are measured as one, however they are grouped, so that results do not depend on the
memory of the device. torch's foreach kernels, too, give as much of a tensor to one block.
"""


class Span(NamedTuple):
    """`numel` elements of a segment, of which element `first` is the first and begins a row.

    `start` is the place of that element among those of all segments, their padding included.
    """

    segment: int
    first: int
    start: int
    numel: int


class Group(NamedTuple):
    """Spans in consecutive rows, which are computed with at once."""

    spans: list[Span]
    dtype: DType

    @classmethod
    def of(cls, counts: Sequence[int], dtype: DType) -> Self:
        """The group of all segments, given the elements of each, none of them 0."""
        spans = []
        start = 0
        for segment, count in enumerate(counts):
            for first in range(0, count, SPAN_NUMEL):
                numel = min(SPAN_NUMEL, count - first)
                spans.append(Span(segment, first, start + first, numel))
            start += rows_of(count) * ROW
        return cls(spans, dtype)

    @property
    def numel(self) -> int:
        """Elements from the first one to the end of the last row."""
        last = self.spans[-1]
        return last.start + rows_of(last.numel) * ROW - self.spans[0].start

    @property
    def bytes(self) -> slice:
        """The slice that holds the elements in the bytes of all segments."""
        last, itemsize = self.spans[-1], self.dtype.itemsize
        return slice(self.spans[0].start * itemsize, (last.start + last.numel) * itemsize)

    def halves(self) -> tuple[Group, Group]:
        """The two halves of a group of more than one row."""
        if len(self.spans) > 1:
            middle = len(self.spans) // 2
            first, second = self.spans[:middle], self.spans[middle:]
        else:
            (span,) = self.spans
            half = rows_of(span.numel) // 2 * ROW
            first = [span._replace(numel=half)]
            second = [Span(span.segment, span.first + half, span.start + half, span.numel - half)]
        return Group(first, self.dtype), Group(second, self.dtype)
