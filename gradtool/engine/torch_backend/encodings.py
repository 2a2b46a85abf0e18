"""How torch reads the stored bits of each measured dtype, and how they lie on a device: in rows."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from gradtool.core.dtypes import DTYPES, DType

ROW: Final = 1024
"""Elements of a row: few, for many small tensors; enough for what is fetched to be little."""

INTEGERS: Final = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By itemsize: signed, as torch computes with no others. Magnitudes do not reach the sign."""

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
    """Raw bytes as numbers, of a complex type its parts in turn; a copy only if bytes swap."""
    part = dtype if dtype.component is None else DTYPES[dtype.component]
    return (swapped(raw, part.itemsize) if big_endian else raw).view(TYPES[part.name])


def swapped(raw: Tensor, itemsize: int) -> Tensor:
    """A copy of the bytes of numbers of so many bytes each, in the other byte order."""
    return raw.view(-1, itemsize).flip(1).view(-1)


def magnitudes(parts: Tensor) -> tuple[Tensor, Tensor]:
    """|z| of complex elements: NaN where either part is NaN, else infinite where either is.

    Second, which of them are finite and beyond float64, as only complex128 can be.
    """
    real, imaginary = parts.unbind(dim=1)
    sizes = torch.hypot(real, imaginary)
    sizes.masked_fill_(real.isnan() | imaginary.isnan(), math.nan)
    return sizes, sizes.isinf() & real.isfinite() & imaginary.isfinite()


def rows_of(numel: int) -> int:
    """Rows that so many elements fill, the last one in part."""
    return -(-numel // ROW)


def padded(values: Tensor) -> Tensor:
    """A copy with zeros after it, up to a whole row."""
    staged = values.new_zeros(rows_of(len(values)) * ROW)
    staged[: len(values)] = values
    return staged
