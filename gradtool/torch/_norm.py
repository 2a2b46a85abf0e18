"""The norm of gradients, in float64, on the device they are on and without waiting for it.

    total_norm = ( sum over all elements |g|^p )^(1/p)

Where powers of |g| could leave the range of float64 those of |g| / scale are summed. The scale is
the largest magnitude, or for p < 0 the smallest, and takes a pass of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor

from gradtool.torch._blocks import Block, wide_dtype
from gradtool.torch._gradients import Gradients, Group
from gradtool.torch._mesh import gathered
from gradtool.torch._workers import for_each_block

Kernel = Callable[[Tensor], Tensor]
"""Reduces wide rows of elements, which it may overwrite, to one number."""

Combine = Callable[[Tensor], Tensor]
"""Reduces a vector of numbers of kernels to one number of the same meaning."""

WIDE: Final = (torch.float64, torch.complex128)
"""Types with squares that float64 cannot hold; it holds sums of 2^60 squares of all others."""

_SMALLEST_ROOT = 2.0**-1000
"""A smaller root of a sum may have lost digits to underflow, which matters once it is scaled."""


def total_norm(grads: Gradients, p: float, device: torch.device) -> Tensor:
    """The norm of all elements, a scalar on `device` in float64 if that has it.

    NaN if any element is. An infinite element makes it infinite for p > 0, and adds nothing for
    p < 0. For p = 0 it is the number of elements that are not zero.
    """
    if grads.numel == 0:
        return torch.zeros((), dtype=wide_dtype(device), device=device)
    if p == math.inf:
        return _reduced(grads, _largest, torch.amax, 0.0, device)
    if p == -math.inf:
        return _reduced(grads, _smallest, torch.amin, math.inf, device)
    if p == 0.0:
        return _reduced(grads, _count, _sum, 0.0, device)
    fill = 0.0 if p > 0.0 else math.inf
    if p == 2.0 and all(map(_squares_fit, grads.groups)):
        return _reduced(grads, _squares, _sum, fill, device).sqrt()
    scale = torch.ones((), dtype=wide_dtype(device), device=device)
    if p != 1.0:
        scale = _scale(grads, p, device)
    powers = _reduced(grads, _Powers(p, scale), _sum, fill, device)
    return _root(powers, p, scale)


def _squares_fit(group: Group) -> bool:
    return group.dtype not in WIDE and wide_dtype(group.device) is torch.float64


def _scale(grads: Gradients, p: float, device: torch.device) -> Tensor:
    """The finite magnitude above 0 with the largest power; 1 if there is no such magnitude."""
    if p > 0.0:
        scale = _reduced(grads, _largest_finite, torch.amax, 0.0, device)
    else:
        scale = _reduced(grads, _smallest_finite, torch.amin, math.inf, device)
    return torch.where((scale == 0.0) | scale.isinf(), torch.ones_like(scale), scale)


def _root(powers: Tensor, p: float, scale: Tensor) -> Tensor:
    """powers^(1/p) * scale, where no step overflows unless the result does."""
    root = powers.pow(1.0 / p)
    by_logarithm = torch.exp2(powers.log2() / p + scale.log2())
    is_beyond = (root.isinf() | (root < _SMALLEST_ROOT)) & powers.isfinite() & (powers != 0.0)
    return torch.where(is_beyond, by_logarithm, root * scale)


def _squares(rows: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(rows, dim=1)
    return torch.dot(norms, norms)


def _largest(rows: Tensor) -> Tensor:
    return rows.abs_().amax()


def _smallest(rows: Tensor) -> Tensor:
    return rows.abs_().amin()


def _count(rows: Tensor) -> Tensor:
    return (rows != 0.0).sum().to(rows.dtype)


def _largest_finite(rows: Tensor) -> Tensor:
    return torch.where(rows.isfinite(), rows.abs(), 0.0).amax()


def _smallest_finite(rows: Tensor) -> Tensor:
    counts = rows.isfinite() & (rows != 0.0)
    return torch.where(counts, rows.abs(), math.inf).amin()


class _Powers:
    """A kernel that sums (|g| / scale)^p."""

    def __init__(self, p: float, scale: Tensor) -> None:
        self._p = p
        self._scale = scale

    def __call__(self, rows: Tensor) -> Tensor:
        ratios = rows.abs_().div_(self._scale.to(rows.device))
        return (ratios if self._p == 1.0 else ratios.pow_(self._p)).sum(dim=1).sum()


def _sum(values: Tensor) -> Tensor:
    """The sum; on a CPU exact but for one rounding, and so the same for any number of threads."""
    if values.device.type != "cpu":
        return values.sum()
    summands = values.tolist()
    try:
        total = math.fsum(summands)
    except (OverflowError, ValueError):  # a sum beyond float64, or opposite infinities
        total = sum(summands)
    return torch.tensor(total, dtype=values.dtype, device=values.device)


def _reduced(
    grads: Gradients, kernel: Kernel, combine: Combine, fill: float, device: torch.device
) -> Tensor:
    """The numbers of `kernel`, combined over all blocks, groups and ranks.

    `fill` pads rows: an element that changes no result.
    """
    values = []
    for group, blocks in grads.groups.items():
        value = combine(torch.stack([*_block_values(kernel, group, blocks, fill)]))
        for ranks in group.ranks:
            value = combine(gathered(value, ranks))
        values.append(value.to(device))
    return combine(torch.stack(values))


def _block_values(
    kernel: Kernel, group: Group, blocks: list[Block], fill: float
) -> Iterator[Tensor]:
    """The number that `kernel` gives for each block of a group on this rank.

    One for a single `fill` comes first, so that a rank without blocks has a number too.
    """
    wide = wide_dtype(group.device)
    yield kernel(torch.full((1, 1), fill, dtype=wide, device=group.device))
    if group.device.type != "cpu" and kernel is _squares and blocks:
        yield squares_on_device(blocks)
        return
    yield from for_each_block(
        lambda buffers, block: kernel(buffers.rows(buffers.flat(block), fill)),
        blocks,
        group.device,
        group.dtype,
    )


def squares_on_device(blocks: list[Block]) -> Tensor:
    """The sum of squares, by one kernel over all tensors, which widens elements as it reads."""
    tensors = [tensor for block in blocks for tensor in block.tensors]
    wide = wide_dtype(tensors[0].device)
    norms = torch.stack(torch._foreach_norm(tensors, 2.0, dtype=wide))
    return torch.dot(norms, norms)
