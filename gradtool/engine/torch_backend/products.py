"""Sums of products of two blocks of finite numbers, row by row, on the device that holds them.

They are made in float64, of halves of a row that are added element by element: their order is the
same whatever the device, its kernels and the rows beside, and their error that of a dozen
additions. The sums of rows are added exactly on the CPU.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from gradtool.engine.numpy_backend.products import SCALE_BITS

_FRACTION: Final = 52
"""Bits of the fraction of a float64, above which its exponent is."""

_BIAS: Final = 1023
_SAFE: Final = 200
"""Binary exponents up to which squares need no scale, as `power_scale` has it."""

_SHORT: Final = -(1 << _FRACTION + 1 - SCALE_BITS)
"""The bits of a factor that are kept."""


def sums_of(a: Tensor, b: Tensor, d: Tensor, row: int) -> tuple[list[Tensor], list[Tensor]]:
    """The sums of each row: of a^2, b^2, ab, d^2, the factor c, of (b - ca)^2 and of (b - ca)a.

    The second list has the exponents of the powers of two that a, b and d were divided by.
    """
    (a, ea), (b, eb), (d, ed) = map(_scaled, (a, b, d))
    aa, bb, ab, dd = (_row_sums(x * y, row) for x, y in ((a, a), (b, b), (a, b), (d, d)))
    c = ab / aa
    c = torch.where(c.isfinite(), c, 1.0)
    c = (c.view(torch.int64) & _SHORT).view(torch.float64)
    r = (b.view(-1, row) - a.view(-1, row) * c[:, None]).view(-1)
    return [aa, bb, ab, dd, c, _row_sums(r * r, row), _row_sums(r * a, row)], [ea, eb, ed]


def _scaled(values: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers divided by a power of two, if their squares need that, and its exponent."""
    peak = values.abs().amax()
    exponent = (peak.view(torch.int64) >> _FRACTION).clamp(1, 2 * _BIAS) - _BIAS
    is_safe = (exponent.abs() <= _SAFE) | (peak == 0.0)
    exponent = torch.where(is_safe, 0, exponent)
    return values / (exponent + _BIAS << _FRACTION).view(torch.float64), exponent


def _row_sums(values: Tensor, row: int) -> Tensor:
    """The sums of rows of so many numbers, a power of two."""
    values = values.view(-1, row)
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        values = values[:, :half] + values[:, half:]
    return values[:, 0]
