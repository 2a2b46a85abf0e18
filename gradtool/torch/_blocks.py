"""Tensors in pieces that fit a cache, widened to float64.

On a CPU torch's conversions and sums of a piece that stays in the cache run at the speed of
memory, in all threads of torch, while `_foreach_norm(..., dtype=torch.float64)` of a whole
tensor makes a wide copy of it in memory and is ten times slower.
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
"""Elements of a piece on a CPU: 1 MiB once they are wide."""

DEVICE_BLOCK: Final = 1 << 24
"""On a device, where memory is fast, and starting a kernel is what costs."""

ROW: Final = 4096
"""Elements that are added in float64 one after another: within 5e-13 of the truth, at worst."""

SERIAL: Final = 7 * ROW
"""Elements that torch computes in the thread that asks, in rows too: it shares out 32768.

Tensors of fewer are taken together, that many at most on a CPU: for as little, threads that wait
for each other between the copies of such tensors cost more than they save.
"""

_NARROW: Final = (torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)
"""Types that torch converts to float64 an element at a time, but to float32 in vectors."""

_LOW_BITS: Final = 53 - 12
"""Bits of a float64's fraction below its first twelve."""


@dataclass(frozen=True, slots=True)
class Block:
    """A one-dimensional piece of a tensor, or several small contiguous tensors.

    Of the latter `addresses` and `sizes` say where they are, and how many bytes, on a CPU.
    """

    tensors: list[Tensor]
    numel: int
    addresses: Sequence[int] = ()
    sizes: Sequence[int] = ()


def blocks(tensors: Sequence[Tensor]) -> Iterator[Block]:
    """All elements of contiguous tensors of one device and dtype, as many at a time as suits it.

    The borders depend on the tensors alone, not on threads or machines, so that sums do not
    either. Small tensors come last.
    """
    small: list[Tensor] = []
    for tensor in tensors:
        numel = tensor.numel()
        if numel >= SERIAL:
            most = CPU_BLOCK if tensor.device.type == "cpu" else DEVICE_BLOCK
            for piece in torch.split(tensor.view(-1), most):
                yield Block([piece], len(piece))
        elif numel:
            small.append(tensor)
    if small:
        yield from _of_small(small, _most_together(small[0]))


def _most_together(tensor: Tensor) -> int:
    """Elements of small tensors like this one in a block."""
    if tensor.device.type != "cpu":
        return DEVICE_BLOCK
    return SERIAL // 2 if tensor.is_complex() else SERIAL  # they are scaled part by part


def _of_small(tensors: list[Tensor], most: int) -> Iterator[Block]:
    """Blocks of so many elements of small tensors, or of one that has more."""
    first = count = 0
    for index, tensor in enumerate(tensors):
        numel = tensor.numel()
        if count + numel > most and count:
            yield _together(tensors[first:index], count)
            first, count = index, 0
        count += numel
    yield _together(tensors[first:], count)


def _together(tensors: list[Tensor], numel: int) -> Block:
    if len(tensors) == 1:
        return Block([tensors[0].view(-1)], numel)
    if tensors[0].device.type != "cpu":
        return Block(tensors, numel)
    return Block(tensors, numel, [t.data_ptr() for t in tensors], [t.nbytes for t in tensors])


def as_real(block: Block) -> Block:
    """The parts of complex elements, one after the other, as a block of real ones."""
    tensors = [torch.view_as_real(tensor).view(-1) for tensor in block.tensors]
    return replace(block, tensors=tensors, numel=2 * block.numel)


def flattened(block: Block) -> Tensor:
    """The block's elements in one piece: their own memory, or a copy on a device."""
    if len(block.tensors) == 1:
        return block.tensors[0]
    return torch.cat([tensor.view(-1) for tensor in block.tensors])


def wide_dtype(device: torch.device) -> torch.dtype:
    """The type to compute in: float64 wherever the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


class _Buffer(NamedTuple):
    """Reused memory for so many elements: making these views anew would cost as much as a sum.

    `rows` are those of `wide` and of `tail`, which fills the last one up.
    """

    flat: Tensor
    between: Tensor
    product: Tensor
    wide: Tensor
    tail: Tensor
    rows: Tensor


class BlockBuffers:
    """Where one block at a time, of tensors of a device and dtype, is widened and scaled."""

    def __init__(self, device: torch.device, dtype: torch.dtype, blocks: Iterable[Block]) -> None:
        self._device = device
        self._dtype = dtype
        self._is_narrow = dtype in _NARROW
        sizes = sorted({block.numel for block in blocks}, reverse=True)
        self._by_size = dict(self._made(sizes))

    def _made(self, sizes: Sequence[int]) -> Iterator[tuple[int, _Buffer]]:
        most = sizes[0] if sizes else 0
        gathered = most if self._device.type == "cpu" else 0
        between_numel = most if self._is_narrow else 0
        wide_type = torch.complex128 if self._dtype.is_complex else wide_dtype(self._device)
        flat = torch.empty(gathered, dtype=self._dtype, device=self._device)
        wide = torch.empty(_padded(most), dtype=wide_type, device=self._device)
        between = torch.empty(between_numel, dtype=torch.float32, device=self._device)
        for size in sizes:
            padded = wide[: _padded(size)]
            yield (
                size,
                _Buffer(
                    flat[:size],
                    between[:size],
                    wide.view(torch.float32)[:size],
                    padded[:size],
                    padded[size:],
                    padded.view(-1, ROW),
                ),
            )

    def flat(self, block: Block) -> Tensor:
        """The block's elements in one piece: their own memory, or a copy."""
        if not block.addresses:
            return flattened(block)
        buffer = self._by_size[block.numel]
        _copied(_places(buffer.flat, block), block.addresses, block.sizes)
        return buffer.flat

    def store(self, flat: Tensor, block: Block) -> None:
        """Put what `flat` gave for the block back, if that was a copy."""
        if not block.addresses:
            return
        _copied(block.addresses, _places(flat, block), block.sizes)
        torch.autograd.graph.increment_version(block.tensors)

    def rows(self, flat: Tensor, fill: float) -> Tensor:
        """The elements as wide rows of ROW, the last one filled up."""
        buffer = self._by_size[flat.numel()]
        self._widen(flat, buffer)
        if buffer.tail.numel():
            buffer.tail.fill_(fill)
        return buffer.rows.abs() if self._dtype.is_complex else buffer.rows

    def scale(self, flat: Tensor, factor: float) -> None:
        """Multiply real elements, of at most 32 bits, by a float64."""
        buffer = self._by_size[flat.numel()]
        if self._is_narrow:
            flat.copy_(_narrow_product(flat, factor, buffer))
        else:
            self._widen(flat, buffer)
            flat.copy_(buffer.wide.mul_(factor))

    def _widen(self, flat: Tensor, buffer: _Buffer) -> None:
        buffer.wide.copy_(buffer.between.copy_(flat) if self._is_narrow else flat)


def _places(flat: Tensor, block: Block) -> Iterable[int]:
    """The addresses that the block's tensors have side by side."""
    return accumulate(block.sizes[:-1], initial=flat.data_ptr())


def _copied(targets: Iterable[int], sources: Iterable[int], sizes: Iterable[int]) -> None:
    """Thousands of small copies: torch takes three times as long to start each."""
    for _ in map(ctypes.memmove, targets, sources, sizes):
        pass


def _padded(numel: int) -> int:
    return -(-numel // ROW) * ROW


def _narrow_product(flat: Tensor, factor: float, buffer: _Buffer) -> Tensor:
    """The product as float32 has it, to be rounded to a type of at most eleven bits.

    `high` has so few bits that its products are exact; what `low` adds makes up for those that
    it lacks.
    """
    high, low = _split(factor)
    values, product = buffer.between.copy_(flat), buffer.product
    torch.mul(values, high, out=product)
    return product.add_(values, alpha=low) if low else product


@lru_cache(maxsize=1)
def _split(factor: float) -> tuple[float, float]:
    """A float64 as the sum of two float32, the first of twelve bits, both of the same sign.

    Of opposite signs, they would make NaN of an infinity.
    """
    wide = torch.tensor(factor, dtype=torch.float64, device="cpu")
    high = (wide.view(torch.int64) >> _LOW_BITS << _LOW_BITS).view(torch.float64)
    low = (wide - high).to(torch.float32)
    return float(high.to(torch.float32)), float(low)
