"""The entries of a sparse tensor of coordinates (COO): where each belongs, and its numbers."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final, Self

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from gradtool.core.dtypes import DTYPES
from gradtool.core.locations import Source
from gradtool.core.shapes.boxes import boxes_of_range
from gradtool.core.shapes.strides import contiguous_strides
from gradtool.core.tensors import TensorSpec
from gradtool.errors import CorruptFileError
from gradtool.storage.elements.strided import READ_NBYTES, WORDS, fill

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

BLOCK: Final = 1 << 18
"""Entries whose places are looked at together."""

MOST_ELEMENTS: Final = 1 << 20
"""Elements that are read at once to pick rows from."""

MOST_PLACES: Final = 1 << 63
"""Places that no 64-bit number counts."""

_REALS: Final[dict[str, DTypeLike]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
}


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries of a sparse tensor: for each an index, and the values at that.

    Two are equal if they are of the same bytes, whatever tensors are called.

    Attributes:
        name: of the index tensor, for errors.
        indices: I64 of shape (sparse axes, entries), with extents if there are entries.
        values: floats or complex numbers of shape (entries, ...), with extents if there are any.
        sizes: of the sparse axes; less than MOST_PLACES places.
    """

    name: str = field(compare=False)
    indices: TensorSpec
    values: TensorSpec
    sizes: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many entries there are."""
        return self.values.shape[0]

    @property
    def dense(self) -> tuple[int, ...]:
        """The shape of the values at one index."""
        return self.values.shape[1:]

    @property
    def columns(self) -> int:
        """How many elements an index has."""
        return math.prod(self.dense)

    @property
    def width(self) -> int:
        """How many float64 numbers an element is: a complex one two."""
        return 2 if self.values.dtype.component else 1

    @property
    def places(self) -> int:
        """How many different indices there could be."""
        return math.prod(self.sizes)


class OpenEntries:
    """Entries whose files are open, and checked at the end; a context manager."""

    def __init__(self, entries: Entries) -> None:
        self.entries = entries
        self._opened = ExitStack()
        self._sources: dict[str, Source] = {}

    def __enter__(self) -> Self:
        for spec in (self.entries.indices, self.entries.values):
            for extent in spec.extents:
                if extent.file.path not in self._sources:
                    source = self._opened.enter_context(extent.file.open())
                    self._sources[extent.file.path] = source
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._opened:
            for source in self._sources.values() if error is None else ():
                source.check_unchanged()

    def places(self) -> Iterator[tuple[int, Int64]]:
        """The place of each entry, as a C-order position in the sizes, block by block.

        With each block comes the number of its first entry. Raises CorruptFileError for an index
        out of bounds.
        """
        for first in range(0, self.entries.count, BLOCK):
            count = min(BLOCK, self.entries.count - first)
            keys = np.zeros(count, np.int64)
            for axis, size in enumerate(self.entries.sizes):
                found = self._indices(axis, first, count)
                outside = (found < 0) | (found >= size)
                if outside.any():
                    raise self._out_of_bounds(axis, first + int(outside.argmax()), found[outside])
                keys *= size
                keys += found
            yield first, keys

    def _indices(self, axis: int, first: int, count: int) -> Int64:
        """The index of `count` entries along a sparse axis, as stored."""
        return (
            self._read(self.entries.indices, (axis, first), (1, count)).reshape(-1).view(np.int64)
        )

    def _out_of_bounds(self, axis: int, entry: int, outside: Int64) -> CorruptFileError:
        spec = self.entries.indices
        (extent,) = spec.extents
        at = axis * _strides(spec)[0] + entry * _strides(spec)[1]
        problem = (
            f"entry {entry} of a sparse tensor has index {outside[0]} on axis {axis}, "
            f"whose size is {self.entries.sizes[axis]}"
        )
        byte = extent.offset + at * spec.dtype.itemsize
        return CorruptFileError(extent.file.path, problem, tensor=self.entries.name, byte=byte)

    def rows(self, numbers: Int64, first: int, stop: int) -> Float64:
        """Elements `first` to `stop` of the values of some entries, in float64.

        `numbers` are those of the entries, ascending. The result has a row for each, and for each
        element as many columns as it has numbers.
        """
        out = np.empty((len(numbers), (stop - first) * self.entries.width))
        row_nbytes = self.entries.columns * self.entries.values.dtype.itemsize
        gaps = np.flatnonzero((np.diff(numbers) - 1) * row_nbytes > READ_NBYTES) + 1
        most = max(MOST_ELEMENTS // (stop - first), 1)
        ends = [*gaps.tolist(), len(numbers)]
        begin = 0
        for end in ends:
            while begin < end:
                low = int(numbers[begin])
                after = begin + int(np.searchsorted(numbers[begin:end], low + most))
                near = numbers[begin:after]
                out[begin:after] = self._row_range(low, int(near[-1]) + 1, first, stop)[near - low]
                begin = after
        return out

    def _row_range(self, low: int, high: int, first: int, stop: int) -> Float64:
        """Elements `first` to `stop` of the values of entries `low` to `high`."""
        spec = self.entries.values
        parts = [
            self._read(spec, (low, *box.offsets), (high - low, *box.sizes)).reshape(high - low, -1)
            for box in boxes_of_range(self.entries.dense, first, stop)
        ]
        words = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        component = DTYPES[spec.dtype.component] if spec.dtype.component else spec.dtype
        with np.errstate(all="ignore"):
            return np.asarray(words.view(_REALS[component.name]), np.float64)

    def _read(
        self, spec: TensorSpec, offsets: tuple[int, ...], sizes: tuple[int, ...]
    ) -> NDArray[Any]:
        """The elements in a box of a tensor, as words of this machine's byte order."""
        (extent,) = spec.extents
        source = self._sources[extent.file.path]
        out = np.empty(sizes, WORDS[spec.dtype.itemsize])
        first = sum(map(int.__mul__, offsets, _strides(spec)))

        def read_into(offset: int, buffer: memoryview) -> None:
            source.read_into(extent.offset + offset, buffer)

        fill(read_into, first, _strides(spec), out, lambda nbytes: np.empty(nbytes, np.uint8))
        part = DTYPES[spec.dtype.component] if spec.dtype.component else spec.dtype
        words = out.view(f"u{part.itemsize}")
        return words.byteswap() if spec.big_endian != (sys.byteorder == "big") else words


def _strides(spec: TensorSpec) -> tuple[int, ...]:
    return contiguous_strides(spec.shape) if spec.strides is None else spec.strides
