"""What to read, in which pieces: decided before anything is scheduled.

Tasks are plain values, so that any `concurrent.futures.Executor` can run them, and their
borders depend on the catalogue alone, so that results do not depend on who ran them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gradtool.core.dtypes import DType
from gradtool.core.strides import contiguous_strides, is_dense, repetitions
from gradtool.core.tensors import Extent, Seal, SourceFile, Stream, TensorSpec

TASK_BYTES: Final = 8 << 20
"""Bytes of one task: enough to make scheduling cheap, few enough to keep every core busy."""

BLOCK_ELEMENTS: Final = 1 << 16
"""Elements that a backend gets in one call."""

BLOCK_PIECES: Final = 1 << 10
"""Tensors that a backend gets in one call."""

GAP_BYTES: Final = 1 << 10
"""Bytes between two pieces that are cheaper to read over than to skip with another call."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Shape and strides of a tensor whose elements are not in C order."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """What a result is about: the elements of one tensor, or those that it alone names.

    Attributes:
        spec: the tensor.
        distinct: count each stored element once, however often the view names it.
        earlier: views on the same storage whose elements are left out, as (byte offset of
            the first element, layout), by tensors that come before.
    """

    spec: TensorSpec
    distinct: bool = False
    earlier: tuple[tuple[int, Layout], ...] = ()


class Piece(NamedTuple):
    """Consecutive elements of one target: `nbytes` bytes at `offset` of the task's file.

    `first` is the position of its first element in the tensor's stored order.
    """

    target: int
    first: int
    offset: int
    nbytes: int


@dataclass(slots=True)
class Block:
    """Pieces of one dtype that a backend measures in one call."""

    dtype: DType
    big_endian: bool
    layout: Layout | None
    pieces: list[Piece] = field(default_factory=list)
    nbytes: int = 0


@dataclass(slots=True)
class ReadTask:
    """Blocks of one file."""

    file: SourceFile
    blocks: list[Block] = field(default_factory=list)
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class StreamTask:
    """A tensor whose bytes come from a stream."""

    target: int
    stream: Stream
    dtype: DType
    big_endian: bool
    layout: Layout | None
    nbytes: int


@dataclass(frozen=True, slots=True)
class ScatterTask:
    """Elements `start` to `stop` of a view with gaps, in the order that `views` walks it."""

    index: int
    target: Target
    start: int
    stop: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class SealTask:
    """A stored checksum to verify."""

    seal: Seal
    nbytes: int


Task = ReadTask | StreamTask | ScatterTask | SealTask


def plan(targets: Sequence[Target], seals: Iterable[Seal]) -> Iterator[Task]:
    """Every task that measures `targets` and verifies `seals`, in file order."""
    yield from _read_tasks(targets)
    for index, target in enumerate(targets):
        spec = target.spec
        if spec.stream is not None:
            yield StreamTask(
                index, spec.stream, spec.dtype, spec.big_endian, layout_of(spec), spec.nbytes
            )
        elif is_scattered(target):
            yield from _scatter_tasks(index, target)
    for seal in seals:
        yield SealTask(seal, seal.covers.nbytes)


def layout_of(spec: TensorSpec) -> Layout | None:
    """The layout of a tensor that is not in C order."""
    return None if spec.strides is None else Layout(spec.shape, spec.strides)


def is_scattered(target: Target) -> bool:
    """Whether the elements are not simply all those in the tensor's extents."""
    spec = target.spec
    return bool(target.earlier) or not (spec.strides is None or is_dense(spec.shape, spec.strides))


def _read_tasks(targets: Sequence[Target]) -> Iterator[ReadTask]:
    task: ReadTask | None = None
    for extent, index, first in _extents_in_file_order(targets):
        spec = targets[index].spec
        itemsize, layout = spec.dtype.itemsize, layout_of(spec)
        for start in range(0, extent.nbytes, BLOCK_ELEMENTS * itemsize):
            nbytes = min(BLOCK_ELEMENTS * itemsize, extent.nbytes - start)
            if task is None or task.file is not extent.file or task.nbytes + nbytes > TASK_BYTES:
                if task is not None:
                    yield task
                task = ReadTask(extent.file)
            if not task.blocks or not _joins(task.blocks[-1], spec, layout, nbytes):
                task.blocks.append(Block(spec.dtype, spec.big_endian, layout))
            block = task.blocks[-1]
            block.pieces.append(
                Piece(index, first + start // itemsize, extent.offset + start, nbytes)
            )
            block.nbytes += nbytes
            task.nbytes += nbytes
    if task is not None:
        yield task


def _extents_in_file_order(targets: Sequence[Target]) -> Iterator[tuple[Extent, int, int]]:
    """(extent, target, position of its first element), so that disks read forwards."""
    order: dict[str, int] = {}
    found = []
    for index, target in enumerate(targets):
        if is_scattered(target):
            continue
        first = 0
        for extent in target.spec.extents:
            file = order.setdefault(extent.file.path, len(order))
            found.append((file, extent.offset, index, first, extent))
            first += extent.nbytes // target.spec.dtype.itemsize
    found.sort()
    for _, _, index, first, extent in found:
        yield extent, index, first


def _joins(block: Block, spec: TensorSpec, layout: Layout | None, nbytes: int) -> bool:
    return (
        block.dtype is spec.dtype
        and block.big_endian == spec.big_endian
        and block.layout is None
        and layout is None
        and block.nbytes + nbytes <= BLOCK_ELEMENTS * spec.dtype.itemsize
        and len(block.pieces) < BLOCK_PIECES
    )


def _scatter_tasks(index: int, target: Target) -> Iterator[ScatterTask]:
    spec = target.spec
    walked = walked_elements(target)
    step = TASK_BYTES // spec.dtype.itemsize
    for start in range(0, walked, step):
        stop = min(start + step, walked)
        yield ScatterTask(index, target, start, stop, spec.nbytes * (stop - start) // walked)


def walked_elements(target: Target) -> int:
    """Number of indices that a walk over a scattered target visits."""
    spec = target.spec
    strides = spec.strides or contiguous_strides(spec.shape)
    return spec.numel // repetitions(spec.shape, strides) if spec.numel else 0
