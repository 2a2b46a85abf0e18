"""Scaling gradients in place, in float64, each product rounded to the dtype of the gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from gradtool.torch._blocks import Block, BlockBuffers, as_real, flattened
from gradtool.torch._gradients import Gradients
from gradtool.torch._workers import for_each_block


def scale(grads: Gradients, coef: Tensor) -> None:
    """Multiply every element by `coef`, a scalar.

    On a CPU nothing is done for a factor of 1; on a device nothing waits to look at the factor.
    """
    if all(group.device.type == "cpu" for group in grads.groups) and float(coef) == 1.0:
        return
    for group, blocks in grads.groups.items():
        dtype, parts = group.dtype, blocks
        if dtype.is_complex:
            # Part by part: the complex product of an infinity and a real number is NaN.
            dtype, parts = dtype.to_real(), [as_real(block) for block in blocks]
        if group.device.type == "cpu":
            _scale_on_cpu(parts, dtype, float(coef))
        else:
            scale_on_device(parts, coef.to(group.device))
    for write_back in grads.write_backs:
        write_back()


def _scale_on_cpu(blocks: list[Block], dtype: torch.dtype, factor: float) -> None:
    if dtype is torch.float64:
        for block in blocks:
            torch._foreach_mul_(block.tensors, factor)
        return

    def scale_block(buffers: BlockBuffers, block: Block) -> None:
        flat = buffers.flat(block)
        buffers.scale(flat, factor)
        buffers.store(flat, block)

    for_each_block(scale_block, blocks, torch.device("cpu"), dtype)


def scale_on_device(blocks: list[Block], coef: Tensor) -> None:
    """Multiply the elements of blocks, by one kernel each, or a few for several small tensors."""
    factor = coef.reshape(1)  # a scalar would be rounded to the tensors' type first
    for block in blocks:
        flat = flattened(block).mul_(factor)
        if len(block.tensors) > 1:
            pieces = torch.split(flat, [tensor.numel() for tensor in block.tensors])
            views = [
                piece.view_as(tensor) for piece, tensor in zip(pieces, block.tensors, strict=True)
            ]
            torch._foreach_copy_(block.tensors, views)
