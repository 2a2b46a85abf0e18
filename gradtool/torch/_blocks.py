"""Cutting tensors into blocks that fit a cache, and widening these to float64.

On a CPU torch converts and sums a block that stays in the cache at the speed of memory, in all of
its threads, while `_foreach_norm(..., dtype=torch.float64)` of a whole tensor makes a wide copy
of it in memory and is ten times slower.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import Final, NamedTuple

import torch
from torch import Tensor

CPU_BLOCK: Final = 1 << 17
"""Elements of a block on a CPU: 1 MiB in float64."""

DEVICE_BLOCK: Final = 1 << 24
"""Elements of a block on another device, where memory is fast and starting a kernel is slow."""

ROW: Final = 4096
"""Elements that are added in float64 one after another: within 5e-13 of the truth, at worst."""

SERIAL: Final = 7 * ROW
"""Elements that torch still computes in the calling thread: from 32768 on it uses several.

Smaller tensors are taken together, on a CPU at most that many elements, to be computed in one
thread: several that wait for each other between copies so small cost more than they save.
"""

_NARROW: Final = (torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)
"""Types that torch converts to float32 in vectors, but to float64 one element at a time."""

_LOW_BITS: Final = 53 - 12
"""Bits of a float64's significand behind its first twelve."""


@dataclass(frozen=True, slots=True)
class Block:
    """A one-dimensional piece of a tensor, or several small contiguous tensors.

    Attributes:
        tensors: the piece, or the small tensors.
        numel: elements of all of them.
        addresses, sizes: of several tensors on a CPU, the address and number of bytes of each.
    """

    tensors: list[Tensor]
    numel: int
    addresses: Sequence[int] = ()
    sizes: Sequence[int] = ()


def blocks(tensors: Sequence[Tensor]) -> Iterator[Block]:
    """All elements of contiguous tensors of one device and dtype, cut into blocks.

    Blocks depend on the tensors alone, not on threads or machines, and so do sums over them. Small
    tensors come last.
    """
    small: list[Tensor] = []
    for tensor in tensors:
        numel = tensor.numel()
        if numel >= SERIAL:
            max_numel = CPU_BLOCK if tensor.device.type == "cpu" else DEVICE_BLOCK
            for piece in torch.split(tensor.view(-1), max_numel):
                yield Block([piece], len(piece))
        elif numel:
            small.append(tensor)
    if small:
        yield from _joint_blocks(small, _max_joint_numel(small[0]))


def _max_joint_numel(tensor: Tensor) -> int:
    """The most elements of a block of several small tensors of the same device and dtype."""
    if tensor.device.type != "cpu":
        return DEVICE_BLOCK
    return SERIAL // 2 if tensor.is_complex() else SERIAL  # complex ones have two parts to scale


def _joint_blocks(tensors: list[Tensor], max_numel: int) -> Iterator[Block]:
    """Blocks of small tensors, at most `max_numel` elements together, unless one has more."""
    first = count = 0
    for index, tensor in enumerate(tensors):
        numel = tensor.numel()
        if count + numel > max_numel and count:
            yield _joint_block(tensors[first:index], count)
            first, count = index, 0
        count += numel
    yield _joint_block(tensors[first:], count)


def _joint_block(tensors: list[Tensor], numel: int) -> Block:
    if len(tensors) == 1:
        return Block([tensors[0].view(-1)], numel)
    if tensors[0].device.type != "cpu":
        return Block(tensors, numel)
    addresses = [tensor.data_ptr() for tensor in tensors]
    return Block(tensors, numel, addresses, [tensor.nbytes for tensor in tensors])


def as_real(block: Block) -> Block:
    """A block of complex elements as one of real elements, twice as many, in the same memory."""
    tensors = [torch.view_as_real(tensor).view(-1) for tensor in block.tensors]
    return replace(block, tensors=tensors, numel=2 * block.numel)


def flattened(block: Block) -> Tensor:
    """The block's elements as one tensor: their own memory, or a copy if it has several tensors."""
    if len(block.tensors) == 1:
        return block.tensors[0]
    return torch.cat([tensor.view(-1) for tensor in block.tensors])


def wide_dtype(device: torch.device) -> torch.dtype:
    """The type to compute in: float64, or float32 on a device that lacks it."""
    return torch.float32 if device.type == "mps" else torch.float64


class _Buffer(NamedTuple):
    """Views of reused memory for blocks of one size: making them anew would cost as much as a sum.

    Attributes:
        flat: for copies of the elements of several tensors, in their dtype.
        single: for narrow elements, in float32.
        product: for scaled narrow elements, in float32, in the memory of `wide`.
        wide: for the elements in the wide dtype.
        tail: what is left of the last row behind `wide`.
        rows: `wide` and `tail` as rows of ROW elements.
    """

    flat: Tensor
    single: Tensor
    product: Tensor
    wide: Tensor
    tail: Tensor
    rows: Tensor


class BlockBuffers:
    """Memory in which blocks of one device and dtype are widened and scaled, one at a time."""

    def __init__(self, device: torch.device, dtype: torch.dtype, blocks: Iterable[Block]) -> None:
        self._device = device
        self._dtype = dtype
        self._is_narrow = dtype in _NARROW
        sizes = sorted({block.numel for block in blocks}, reverse=True)
        self._by_size = dict(self._buffers(sizes))

    def _buffers(self, sizes: Sequence[int]) -> Iterator[tuple[int, _Buffer]]:
        """A buffer for each size, the largest first, all in the same memory."""
        largest = sizes[0] if sizes else 0
        flat_numel = largest if self._device.type == "cpu" else 0
        single_numel = largest if self._is_narrow else 0
        wide_type = torch.complex128 if self._dtype.is_complex else wide_dtype(self._device)
        flat = torch.empty(flat_numel, dtype=self._dtype, device=self._device)
        wide = torch.empty(_padded(largest), dtype=wide_type, device=self._device)
        single = torch.empty(single_numel, dtype=torch.float32, device=self._device)
        for size in sizes:
            padded = wide[: _padded(size)]
            yield (
                size,
                _Buffer(
                    flat[:size],
                    single[:size],
                    wide.view(torch.float32)[:size],
                    padded[:size],
                    padded[size:],
                    padded.view(-1, ROW),
                ),
            )

    def flat(self, block: Block) -> Tensor:
        """The block's elements as one tensor: their own memory, or a copy."""
        if not block.addresses:
            return flattened(block)
        buffer = self._by_size[block.numel]
        _copy(_flat_addresses(buffer.flat, block), block.addresses, block.sizes)
        return buffer.flat

    def store(self, flat: Tensor, block: Block) -> None:
        """Copy the result of `flat` back into the block's tensors, if it was a copy."""
        if not block.addresses:
            return
        _copy(block.addresses, _flat_addresses(flat, block), block.sizes)
        torch.autograd.graph.increment_version(block.tensors)

    def rows(self, flat: Tensor, fill: float) -> Tensor:
        """The elements, or their magnitudes if complex, as wide rows of ROW, padded with `fill`."""
        buffer = self._by_size[flat.numel()]
        self._widen(flat, buffer)
        if buffer.tail.numel():
            buffer.tail.fill_(fill)
        return buffer.rows.abs() if self._dtype.is_complex else buffer.rows

    def scale(self, flat: Tensor, factor: float) -> None:
        """Multiply real elements of at most 32 bits by a float64, in place."""
        buffer = self._by_size[flat.numel()]
        if self._is_narrow:
            flat.copy_(_narrow_product(flat, factor, buffer))
        else:
            self._widen(flat, buffer)
            flat.copy_(buffer.wide.mul_(factor))

    def _widen(self, flat: Tensor, buffer: _Buffer) -> None:
        buffer.wide.copy_(buffer.single.copy_(flat) if self._is_narrow else flat)


def _flat_addresses(flat: Tensor, block: Block) -> Iterable[int]:
    """Where in `flat` the copies of the block's tensors begin, side by side."""
    return accumulate(block.sizes[:-1], initial=flat.data_ptr())


def _copy(targets: Iterable[int], sources: Iterable[int], sizes: Iterable[int]) -> None:
    """Copy memory between addresses; each copy by torch would take three times as long to start."""
    for _ in map(ctypes.memmove, targets, sources, sizes):
        pass


def _padded(numel: int) -> int:
    return -(-numel // ROW) * ROW


def _narrow_product(flat: Tensor, factor: float, buffer: _Buffer) -> Tensor:
    """The product in float32, precise enough to be rounded to a type of at most eleven bits.

    `high` has so few bits that its products are exact; `low` adds those of the factor's other
    bits.
    """
    high, low = _split(factor)
    values, product = buffer.single.copy_(flat), buffer.product
    torch.mul(values, high, out=product)
    return product.add_(values, alpha=low) if low else product


@lru_cache(maxsize=1)
def _split(factor: float) -> tuple[float, float]:
    """A float64 as the sum of two float32, the first of twelve bits, both of the same sign.

    With opposite signs the products with an infinity would add up to NaN.
    """
    wide = torch.tensor(factor, dtype=torch.float64, device="cpu")
    high = (wide.view(torch.int64) >> _LOW_BITS << _LOW_BITS).view(torch.float64)
    low = (wide - high).to(torch.float32)
    return float(high.to(torch.float32)), float(low)
