"""torch's functions for clipping gradients, with sums that neither drift nor overflow."""

from __future__ import annotations

import math
import types
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._foreach_utils import _device_has_foreach_support

from gradtool.core.clipping import TORCH_EPS
from gradtool.core.figures import some
from gradtool.torch._blocks import wide_dtype
from gradtool.torch._gradients import Gradients, gather
from gradtool.torch._mesh import is_dtensor, replicated_like
from gradtool.torch._norm import WIDE, total_norm
from gradtool.torch._scale import scale

Tensors = Tensor | Iterable[Tensor] | Iterable[tuple[str, Tensor]]
"""A tensor, several, or pairs of name and tensor, as `named_parameters()` gives them."""

_MOST_NAMED: Final = 3


@torch.no_grad()
def clip_grad_norm_(
    parameters: Tensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Clip the gradients of `parameters` in place by the norm of all of them together.

        clip_coef = min(1, max_norm / (total_norm + 1e-6));  g <- g * clip_coef

    Args:
        parameters: a tensor, tensors, or pairs of name and tensor such as
            `model.named_parameters()`; those without a gradient are passed over.
        max_norm: bound on the norm, at least 0.
        norm_type: p, any float but NaN; 'inf' for the largest magnitude.
        error_if_nonfinite: raise if the norm is NaN or infinite, before anything is scaled.
        foreach: True asks for devices on which torch has foreach kernels, as torch's own does;
            it makes no difference otherwise.
        dtype: of the norm that comes back, torch.float32 or torch.float64. By default the one
            that torch would give, but never narrower than float32. The coefficient comes from
            the float64 norm, also where that is beyond float32 and comes back as infinity.

    Returns:
        The norm before clipping, a scalar on the first gradient's device; a replicated DTensor
        where that gradient is a DTensor.

    Raises:
        ValueError: a negative or NaN `max_norm`, a `norm_type` that is no number, or another
            `dtype`.
        RuntimeError: a norm that is not finite, gradients of an integer dtype, or
            foreach=True on a device that has no such kernels.

    Source: torch/nn/utils/clip_grad.py, `clip_grad_norm_`; the differences are listed in the
    documentation of `gradtool.torch`.
    """
    tensors, names = _listed(parameters)
    if isinstance(parameters, types.GeneratorType) and not tensors:
        message = "`parameters` is an empty generator, no gradient clipping will occur."
        warnings.warn(message, stacklevel=3)
    bound, p = _bound(max_norm), _norm_type(norm_type)
    _refuse_dtype(dtype)
    grads, names = _gradients(tensors, names)
    _refuse(grads, foreach)
    measured = gather(grads)
    total = total_norm(measured, p, _first_device(grads))
    if error_if_nonfinite:
        _refuse_nonfinite(total, p, grads, names)
    scaled = gather(grads, summed=False) if measured.has_pending_sums else measured
    scale(scaled, _coef(bound, total))
    return _like_first(_rounded(total, measured, dtype), grads)


@torch.no_grad()
def get_total_norm(
    tensors: Tensors,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The norm of `tensors` (gradients, not parameters) as if they were one vector.

    Arguments, result and errors are those of `clip_grad_norm_`, but for `error_if_nonfinite`,
    which raises here for a norm that is infinite in its `dtype` alone as well: whoever clips by
    that would clip all to zero.

    Source: torch/nn/utils/clip_grad.py, `_get_total_norm`.
    """
    p = _norm_type(norm_type)
    _refuse_dtype(dtype)
    grads, names = _listed(tensors)
    _refuse(grads, foreach)
    measured = gather(grads)
    total = _rounded(total_norm(measured, p, _first_device(grads)), measured, dtype)
    if error_if_nonfinite:
        _refuse_nonfinite(total, p, grads, names)
    return _like_first(total, grads)


@torch.no_grad()
def clip_grads_with_norm_(
    parameters: Tensors,
    max_norm: float,
    total_norm: Tensor,
    foreach: bool | None = None,
) -> None:
    """Clip the gradients of `parameters` in place by a norm that is known already.

    `total_norm` is a scalar tensor of any dtype, or a number; the coefficient is as precise as it
    is. The rest is as for `clip_grad_norm_`.

    Source: torch/nn/utils/clip_grad.py, `_clip_grads_with_norm_`.
    """
    bound = _bound(max_norm)
    grads, _ = _gradients(*_listed(parameters))
    _refuse(grads, foreach)
    norm: Any = total_norm
    if is_dtensor(norm):
        norm = norm.full_tensor()
    elif not isinstance(norm, Tensor):
        norm = torch.tensor(float(norm), dtype=torch.float64, device="cpu")
    scale(gather(grads, summed=False), _coef(bound, norm))


@torch.no_grad()
def clip_grad_value_(parameters: Tensors, clip_value: float, foreach: bool | None = None) -> None:
    """Clamp each element of the gradients of `parameters` to [-clip_value, clip_value] in place.

    Source: torch/nn/utils/clip_grad.py, `clip_grad_value_`.
    """
    grads, _ = _gradients(*_listed(parameters))
    bound = float(clip_value)
    _refuse_foreach(grads, foreach)
    if any(grad.is_complex() for grad in grads):
        raise NotImplementedError("clamp is not supported for complex types")
    gathered = gather(grads, summed=False)
    if gathered.has_pending_sums:
        raise NotImplementedError("gradients that are sums over ranks yet to be done have no value")
    for blocks in gathered.groups.values():
        for block in blocks:
            torch._foreach_clamp_min_(block.tensors, -bound)
            torch._foreach_clamp_max_(block.tensors, bound)
    for write_back in gathered.write_backs:
        write_back()


def _listed(tensors: Tensors) -> tuple[list[Tensor], list[str]]:
    """A list of the tensors, and one of their names, which is empty if none are given."""
    if isinstance(tensors, Tensor):
        return [tensors], []
    items: list[Any] = list(tensors)
    if items and _is_named(items[0]):
        return [tensor for _, tensor in items], [name for name, _ in items]
    return items, []


def _is_named(item: object) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)


def _gradients(
    parameters: Sequence[Tensor], names: Sequence[str]
) -> tuple[list[Tensor], list[str]]:
    """The gradients of the parameters that have one, and their names if there are names."""
    grads = [tensor.grad for tensor in parameters]
    if names:
        names = [name for name, grad in zip(names, grads, strict=True) if grad is not None]
    return [grad for grad in grads if grad is not None], list(names)


def _first_device(grads: Sequence[Tensor]) -> torch.device:
    return grads[0].device if grads else torch.device("cpu")


def _refuse_nonfinite(
    total: Tensor, p: float, grads: Sequence[Tensor], names: Sequence[str]
) -> None:
    if bool(total.isfinite()):
        return
    bad = [name for name, grad in zip(names, grads, strict=False) if not _is_finite(grad)]
    without = f"none, their norm is beyond {str(total.dtype).removeprefix('torch.')}"
    shown = some(bad, _MOST_NAMED) or without
    raise RuntimeError(
        f"The total norm of order {p} for gradients from `parameters` is non-finite, so it "
        "cannot be clipped. To disable this error and scale the gradients by the non-finite "
        "norm anyway, set `error_if_nonfinite=False`"
        + (f". Non-finite gradients: {shown}" if names else "")
    )


def _is_finite(grad: Tensor) -> bool:
    """Whether all elements are finite, those on other ranks included, so that all ranks agree."""
    return bool(total_norm(gather([grad]), math.inf, grad.device).isfinite())


def _coef(max_norm: float, norm: Tensor) -> Tensor:
    """min(1, max_norm / (norm + eps)), on the norm's device and in float64 if it has that."""
    wide = norm.to(wide_dtype(norm.device))
    # Divided as tensors: a number by a tensor is a product with a rounded reciprocal in torch.
    return torch.clamp(torch.full_like(wide, max_norm) / (wide + TORCH_EPS), max=1.0)


def _rounded(total: Tensor, measured: Gradients, dtype: torch.dtype | None) -> Tensor:
    """The norm in `dtype`, by default in the one that torch's norm has, at least float32.

    torch promotes the dtypes of all gradients, of complex ones those of their parts.
    """
    if dtype is None:
        dtypes = {group.dtype for group in measured.groups} or {torch.get_default_dtype()}
        dtype = torch.float32 if dtypes.isdisjoint(WIDE) else total.dtype
    return total.to(dtype)


def _like_first(total: Tensor, grads: Sequence[Tensor]) -> Tensor:
    """The norm, as a replicated DTensor if the first gradient is a DTensor, as in torch."""
    if grads and is_dtensor(grads[0]):
        first: Any = grads[0]
        return replicated_like(total, first)
    return total


def _bound(max_norm: float) -> float:
    bound = float(max_norm)
    if not bound >= 0.0:
        raise ValueError(f"max_norm should be >= 0, {max_norm} was provided instead")
    return bound


def _norm_type(norm_type: float) -> float:
    p = float(norm_type)
    if math.isnan(p):
        raise ValueError("norm_type should be a number, nan was provided instead")
    return p + 0.0  # -0 is 0


def _refuse_dtype(dtype: torch.dtype | None) -> None:
    if dtype not in (None, torch.float32, torch.float64):
        problem = f"torch.float32 or torch.float64, {dtype} was provided instead"
        raise ValueError(f"dtype should be {problem}")


def _refuse(grads: Sequence[Tensor], foreach: bool | None) -> None:
    """RuntimeError, in torch's words, for what has no norm or no foreach kernels."""
    _refuse_foreach(grads, foreach)
    for dtype in {grad.dtype for grad in grads}:
        if not (dtype.is_floating_point or dtype.is_complex):
            raise RuntimeError(
                "linalg.vector_norm: Expected a floating point or complex tensor as input. "
                f"Got {_SCALAR_TYPES.get(dtype, dtype)}"
            )


def _refuse_foreach(grads: Sequence[Tensor], foreach: bool | None) -> None:
    if not foreach:
        return
    for device in dict.fromkeys(grad.device for grad in grads):
        if not _device_has_foreach_support(device):
            raise RuntimeError(
                f"foreach=True was passed, but can't use the foreach API on {device.type} tensors"
            )


_SCALAR_TYPES: Final = {
    torch.uint8: "Byte",
    torch.int8: "Char",
    torch.int16: "Short",
    torch.int32: "Int",
    torch.int64: "Long",
    torch.bool: "Bool",
}
"""The names that torch's own message has for the types without a norm."""
