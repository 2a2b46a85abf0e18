"""What is on a device at a time: tensors in whole rows, and how to cut them into less."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Self

from gradtool.core.dtypes import DType
from gradtool.engine.torch_backend.encodings import ROW, rows_of

GROUP_NUMEL: Final = 8 << 20
"""Elements of a group, the largest that is on a device for one thread, if there is room for it."""

SPAN_NUMEL: Final = 64 * ROW
"""Elements that are measured as one, whatever they are grouped with: results do not depend on the
memory that there is. Also the piece of a tensor that torch's foreach kernels give a block.
"""


class Span(NamedTuple):
    """Elements of one segment, from the start of a row on.

    `numel` of them: from its element `first` on, which is element `start` among those of all.
    """

    segment: int
    first: int
    start: int
    numel: int


class Group(NamedTuple):
    """Spans in consecutive rows."""

    spans: list[Span]
    dtype: DType

    @classmethod
    def of(cls, counts: Sequence[int], dtype: DType) -> Self:
        """Segments of so many elements each, none of them 0."""
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
        """Where the elements are in the bytes of all segments."""
        last, itemsize = self.spans[-1], self.dtype.itemsize
        return slice(self.spans[0].start * itemsize, (last.start + last.numel) * itemsize)

    def halves(self) -> tuple[Group, Group]:
        """Two groups of what is more than a row."""
        if len(self.spans) > 1:
            middle = len(self.spans) // 2
            first, second = self.spans[:middle], self.spans[middle:]
        else:
            (span,) = self.spans
            half = rows_of(span.numel) // 2 * ROW
            first = [span._replace(numel=half)]
            second = [Span(span.segment, span.first + half, span.start + half, span.numel - half)]
        return Group(first, self.dtype), Group(second, self.dtype)
