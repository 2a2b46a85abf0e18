"""The transforms of the GPU backend: elements scaled or clamped on the device that holds them.

Arithmetic is in float64, and each result is rounded into the stored type once, to nearest even.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from gradtool.core.clipping import Transform
from gradtool.core.dtypes import DType
from gradtool.engine.numpy_backend import transforms as numpy_transforms
from gradtool.engine.torch_backend.encodings import INTEGERS, real_values, swapped


def transformed(
    raw: Tensor,
    dtype: DType,
    transform: Transform,
    *,
    big_endian: bool = False,
    coefs: Tensor | None = None,
) -> Tensor:
    """The bytes (uint8) of the elements in `raw` after a transform.

    A complex element is scaled in both parts, and is non-finite where either is. `coefs` has the
    factor of each element, where the transform has units.
    """
    if dtype.itemsize == 1 and coefs is not None:
        looked_up = raw.cpu().numpy().copy()
        numpy_transforms.apply(looked_up, dtype, transform, coefs=coefs.cpu().numpy())
        return torch.from_numpy(looked_up).to(raw.device)
    if dtype.itemsize == 1:
        return _looked_up(raw, dtype, transform)
    values = real_values(raw, dtype, big_endian=big_endian)
    wide = values.to(torch.float64, copy=True)
    bad = None if transform.nonfinite == "scale" else _nonfinite(wide, dtype)
    if coefs is not None:
        wide.mul_(coefs if dtype.component is None else coefs.repeat_interleave(2))
    elif transform.coef != 1.0:
        wide.mul_(transform.coef)
    if transform.bound < math.inf:
        wide.clamp_(-transform.bound, transform.bound)
    code_type = INTEGERS[values.itemsize]
    codes = rounded(wide, values.dtype).view(code_type)
    if bad is not None:
        kept = 0 if transform.nonfinite == "zero" else values.view(code_type)
        codes = torch.where(bad, kept, codes)
    result = codes.view(torch.uint8)
    return swapped(result, values.itemsize) if big_endian else result


def _looked_up(raw: Tensor, dtype: DType, transform: Transform) -> Tensor:
    """The transformed bytes of fp8: so few codes that the CPU makes a table of the results."""
    codes = np.arange(1 << 8, dtype=np.uint8)
    numpy_transforms.apply(codes, dtype, transform)
    return torch.from_numpy(codes).to(raw.device).index_select(0, raw.to(torch.int32))


def _nonfinite(wide: Tensor, dtype: DType) -> Tensor:
    """Which numbers belong to an element that is NaN or Inf."""
    bad = ~wide.isfinite()
    if dtype.component is None:
        return bad
    return bad.view(-1, 2).any(dim=1).repeat_interleave(2)


def rounded(wide: Tensor, kind: torch.dtype) -> Tensor:
    """float64 in another type, rounded once.

    torch converts to narrow types by way of float32 and would round twice, unless that step rounds
    to odd: Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms
    using rounding to odd", 2008.
    """
    if kind.itemsize >= 4:
        return wide.to(kind)
    return _rounded_to_odd(wide).to(kind)


def _rounded_to_odd(wide: Tensor) -> Tensor:
    """float64 as float32, towards zero and with the last bit set wherever that is inexact."""
    nearest = wide.to(torch.float32)
    words = nearest.view(torch.int32)
    inexact = (nearest != wide) & wide.isfinite()
    words -= (nearest.abs() > wide.abs()).to(torch.int32)
    words |= inexact.to(torch.int32)
    return nearest
