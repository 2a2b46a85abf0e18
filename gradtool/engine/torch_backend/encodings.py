"""How torch reads the stored bits of each measured dtype, and the rows that they lie in."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from gradtool.core.dtypes import DTYPES, DType

ROW: Final = 1024
"""Elements of a row: few enough to suit small tensors, enough that few results are fetched."""

INTEGERS: Final = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By itemsize; signed, as torch computes with no others. Magnitudes leave the sign bit free."""

TYPES: Final[dict[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
}


def real_values(raw: Tensor, dtype: DType, *, big_endian: bool) -> Tensor:
    """Raw bytes as numbers, for a complex type its parts in turn; a copy only if bytes swap."""
    part = dtype if dtype.component is None else DTYPES[dtype.component]
    return (swapped(raw, part.itemsize) if big_endian else raw).view(TYPES[part.name])


def swapped(raw: Tensor, itemsize: int) -> Tensor:
    """A copy of numbers of `itemsize` bytes each, given as bytes, in the other byte order."""
    return raw.view(-1, itemsize).flip(1).view(-1)


def moduli_of(parts: Tensor) -> tuple[Tensor, Tensor]:
    """|z| of complex elements, and which of them are finite but too large for float64.

    |z| is NaN where either part is NaN, else infinite where either is. Only those of complex128
    can be too large.
    """
    real, imaginary = parts.unbind(dim=1)
    moduli = torch.hypot(real, imaginary)
    moduli.masked_fill_(real.isnan() | imaginary.isnan(), math.nan)
    return moduli, moduli.isinf() & real.isfinite() & imaginary.isfinite()


def rows_of(numel: int) -> int:
    """The number of rows that `numel` elements take; they need not fill the last one."""
    return -(-numel // ROW)


def padded(values: Tensor) -> Tensor:
    """A copy of the values, with zeros after them up to a whole row."""
    staged = values.new_zeros(rows_of(len(values)) * ROW)
    staged[: len(values)] = values
    return staged
