"""Grids of blocks: which number of a scale belongs to which elements of the tensor beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grid:
    """The blocks of a tensor that is seen as matrices of `rows` times `columns`, one after another.

    A scale has one number for each block of `block_rows` times `block_columns` elements, fewer at
    the lower and the right edge of each matrix, in C order.
    """

    rows: int
    columns: int
    block_rows: int
    block_columns: int

    @property
    def numbers_in_row(self) -> int:
        """Numbers of the scale that a row of elements is multiplied by."""
        return -(-self.columns // self.block_columns)

    def row_of(self, row: int) -> int:
        """The row of the scale for a row of elements, both counted over all matrices."""
        matrix, within = divmod(row, self.rows)
        return matrix * -(-self.rows // self.block_rows) + within // self.block_rows

    def __str__(self) -> str:
        """How large blocks are, as users call that."""
        if self.rows == self.block_rows and self.columns == self.block_columns:
            return "one number each"
        if self.block_rows == 1 and self.columns == self.block_columns:
            return "one number for each row"
        return f"blocks of {self.block_rows} x {self.block_columns}"


def has_blocks(shape: Sequence[int], scale: Sequence[int]) -> bool:
    """Whether a scale has more numbers than one, and other than one for each row."""
    per_row = tuple(scale[:1]) == tuple(shape[:1]) and set(scale[1:]) <= {1}
    return math.prod(scale) != 1 and not (per_row and len(scale) in (1, len(shape)))


def grid_of(
    shape: Sequence[int], scale: Sequence[int], block: tuple[int, int] | None = None
) -> Grid | None:
    """The grid by which a scale of one shape fits a tensor of another; None if none does.

    One number is for all elements, and as many as there are rows, alone or in a column, are for one
    row each. Other scales are of blocks of the last two dimensions, and repeat those before. Blocks
    are as large as `block` says; else a power of two on each axis, of which at most one fits, or
    all of it.
    """
    if math.prod(scale) == 1:
        numel = math.prod(shape)
        return Grid(1, numel, 1, numel) if numel else Grid(1, 1, 1, 1)
    if not has_blocks(shape, scale):
        width = math.prod(shape[1:]) or 1
        return Grid(shape[0] or 1, width, 1, width)
    if len(scale) != len(shape) or len(shape) < 2 or tuple(scale[:-2]) != tuple(shape[:-2]):
        return None
    (rows, columns), numbers = shape[-2:], scale[-2:]
    if 0 in shape:
        return None
    sizes = block or (_power_of_two(rows, numbers[0]), _power_of_two(columns, numbers[1]))
    if any(-(-size // of) != n for size, of, n in zip(shape[-2:], sizes, numbers, strict=True)):
        return None
    return Grid(rows, columns, *sizes)


def _power_of_two(size: int, count: int) -> int:
    """The power of two that cuts an axis into `count` blocks, or its size for one; else any."""
    return size if count <= 1 else 1 << (-(-size // count) - 1).bit_length()
