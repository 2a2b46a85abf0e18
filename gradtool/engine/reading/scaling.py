"""Elements times the scale beside them, block after block: exact products, in float64.

An fp8 number has at most 4 significant bits and a float32 one 24, so that float64 holds every
product. Of the scale no more is read at a time than the elements of the block need, which is never
more numbers than there are elements.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Self

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.dtypes import DTYPES
from gradtool.core.locations import Location, Source
from gradtool.core.shapes.grids import Grid
from gradtool.core.tensors import Scale, TensorSpec
from gradtool.engine.backend import Backend, Bytes
from gradtool.engine.buffers import BUFFERS
from gradtool.engine.numpy_backend.encodings import Float64, fp8_subnormals, fp8_values
from gradtool.engine.overlaps.groups import GroupTask, Member
from gradtool.engine.overlaps.views import Int64
from gradtool.engine.reading.plan import PackedPiece
from gradtool.engine.reading.reductions import Elements, Positions
from gradtool.engine.reading.unpacking import unpacked_spec

F64: Final = DTYPES["F64"]

_NUMBERS: Final[dict[str, DTypeLike]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}
"""How the bits of the dtypes are read that `formats.scaling` takes for scales."""

Numbers = Callable[[int, int], Float64]
"""`count` numbers of a scale from position `first` of its C order on, given these two."""


class _Rectangle(NamedTuple):
    """Rows and columns of a tensor, from first to before last, and where its elements lie."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    elements: slice


class Scales:
    """The scales that a task reads; a context manager, which closes their files.

    `source` is the task's own file, open.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._sources = {source.file.path: source}
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def check_unchanged(self) -> None:
        """FileChangedError if one of the files changed since it was opened."""
        for source in self._sources.values():
            source.check_unchanged()

    def elements_of(self, piece: PackedPiece, scale: Scale, backend: Backend) -> Elements:
        """The elements of a piece of the task's file times their scale."""
        (extent,) = unpacked_spec(piece.spec, self._source).extents
        codes = BUFFERS.span.array(np.uint8, piece.nbytes)
        self._source.read_into(extent.offset + piece.start, codes.data)
        values = backend.buffer(piece.nbytes * F64.itemsize).view(np.float64)
        self.multiply(codes, piece.spec.dtype.name, piece.start, scale, values)
        return scaled_elements(codes, piece.spec.dtype.name, values, piece.start)

    def window(
        self, task: GroupTask, raw: Bytes, member: Member, offsets: Int64, positions: Int64
    ) -> Float64 | None:
        """A window's elements at `offsets`, which a member names, times its scale if it has one.

        Those that it does not name are 0.
        """
        if member.scale is None:
            return None
        named = slice(int(offsets[0]), int(offsets[-1]) + 1)  # in C order they are in a row
        values = np.zeros(len(raw))
        codes = raw[named].reshape(-1)
        first = int(positions[0])
        self.multiply(codes, task.dtype.name, first, member.scale, values[named])
        return values

    def multiply(
        self, codes: Bytes, dtype_name: str, first: int, scale: Scale, out: Float64
    ) -> None:
        """The numbers of consecutive elements times their scale, in `out`: see `products`."""
        products(codes, dtype_name, first, scale.grid, self._numbers_of(scale), out)

    def _numbers_of(self, scale: Scale) -> Numbers:
        """What reads numbers of a scale."""
        stored = scale.stored
        location = stored.extents[0].file if stored.packed is None else stored.packed.file
        source = self._source_at(location)
        found = unpacked_spec(stored, source)
        (extent,) = found.extents

        def numbers(first: int, count: int) -> Float64:
            item = found.dtype.itemsize
            raw = np.empty(count * item, np.uint8)
            source.read_into(extent.offset + first * item, raw.data)
            return _decoded(raw, found)

        return numbers

    def _source_at(self, location: Location) -> Source:
        source = self._sources.get(location.path)
        if source is None:
            source = self._sources[location.path] = self._opened.enter_context(location.open())
        return source


def scaled_elements(
    codes: Bytes, dtype_name: str, values: Float64, first: int, positions: Positions | None = None
) -> Elements:
    """The products `values` of the fp8 numbers with these codes, as one segment of elements."""
    return Elements(
        values.view(np.uint8),
        F64,
        sys.byteorder == "big",
        [len(codes)],
        [first],
        positions,
        subnormals=fp8_subnormals(codes, dtype_name),
    )


def products(
    codes: Bytes, dtype_name: str, first: int, grid: Grid, numbers: Numbers, out: Float64
) -> None:
    """The fp8 numbers with these codes, each times its number of a scale.

    Args:
        codes: bytes of consecutive elements, in C order.
        dtype_name: their type.
        first: the position of the first of them in its tensor.
        grid: which number belongs to which element.
        numbers: reads numbers of the scale.
        out: where to put the products.
    """
    np.take(fp8_values(dtype_name), codes, out=out, mode="clip")
    # A product with NaN or Inf, or of Inf and 0, is what the file holds, and no mistake.
    with np.errstate(all="ignore"):
        for part in _rectangles(first, len(codes), grid.columns):
            (row, end), (column, stop) = part.rows, part.columns
            values = out[part.elements].reshape(end - row, stop - column)
            values *= _factors(part, grid, numbers)


def _rectangles(first: int, count: int, columns: int) -> Iterator[_Rectangle]:
    """Consecutive elements as the end of a row, whole rows, and the beginning of one."""
    done = 0
    while done < count:
        row, column = divmod(first + done, columns)
        if column or count - done < columns:
            rows, width = 1, min(columns - column, count - done)
        else:
            rows, width = (count - done) // columns, columns
        elements = slice(done, done + rows * width)
        yield _Rectangle((row, row + rows), (column, column + width), elements)
        done += rows * width


def _factors(part: _Rectangle, grid: Grid, numbers: Numbers) -> Float64:
    """What a rectangle is to be multiplied by, of its shape or of one that stretches to it."""
    (row, end), (column, stop) = part.rows, part.columns
    top, bottom = grid.row_of(row), grid.row_of(end - 1)
    left, right = column // grid.block_columns, (stop - 1) // grid.block_columns
    # Several rows of elements are whole rows, and so are those of the scale that belong to them.
    count = (bottom - top) * grid.numbers_in_row + right - left + 1
    found = numbers(top * grid.numbers_in_row + left, count).reshape(bottom - top + 1, -1)
    if right > left:
        found = found[:, np.arange(column, stop) // grid.block_columns - left]
    if bottom > top:
        matrix, within = np.divmod(np.arange(row, end), grid.rows)
        per_matrix = -(-grid.rows // grid.block_rows)
        found = found[matrix * per_matrix + within // grid.block_rows - top]
    return found


def _decoded(raw: NDArray[Any], stored: TensorSpec) -> Float64:
    """The numbers of a scale, given their bytes."""
    words = raw.view(f"u{stored.dtype.itemsize}")
    if stored.big_endian != (sys.byteorder == "big"):
        words = words.byteswap()
    with np.errstate(all="ignore"):
        values = words.view(_NUMBERS[stored.dtype.name]).astype(np.float64)
    return -values if stored.is_negated else values


@dataclass(frozen=True, slots=True)
class ScaledProducts:
    """The elements of an fp8 tensor, which is one range of a file in C order, times its scale."""

    stored: TensorSpec
    scale: Scale

    @property
    def nbytes(self) -> int:
        """See `Stream`."""
        return self.stored.numel * F64.itemsize

    def pieces(self, max_bytes: int) -> Iterator[memoryview]:
        """See `Stream`; of whole elements."""
        most = max(max_bytes // F64.itemsize, 1)
        codes = np.empty(min(most, self.stored.numel), np.uint8)
        values = np.empty(len(codes))
        (extent,) = self.stored.extents
        with extent.file.open() as source, Scales(source) as scales:
            for first in range(0, self.stored.numel, most):
                count = min(most, self.stored.numel - first)
                source.read_into(extent.offset + first, codes[:count].data)
                name = self.stored.dtype.name
                scales.multiply(codes[:count], name, first, self.scale, values[:count])
                yield values[:count].view(np.uint8).data
            scales.check_unchanged()


def times_scales(checkpoint: Checkpoint) -> Checkpoint:
    """A catalogue with the products in place of fp8 tensors that have scales, and of the scales.

    All tensors of it are opened.
    """
    applied = {spec.scale.stored.name for spec in checkpoint.tensors if spec.scale is not None}
    if not applied:
        return checkpoint
    left = checkpoint.narrowed(lambda item: item.name not in applied)
    return replace(left, tensors=tuple(map(_product, left.tensors)))


def _product(spec: TensorSpec) -> TensorSpec:
    if spec.scale is None:
        return spec
    stored = replace(spec, scale=None)
    stream = ScaledProducts(stored, spec.scale) if spec.numel else None
    return replace(stored, dtype=F64, extents=(), stream=stream)
