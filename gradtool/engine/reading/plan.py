"""What to read, in which pieces: decided before anything is scheduled.

Tasks are plain values, so that any `concurrent.futures.Executor` can run them. Their borders
depend on the catalogue and the backend's limits alone, so that results do not depend on who ran
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final, NamedTuple, TypeVar

from gradtool.core.dtypes import DTYPES, DType
from gradtool.core.locations import Extent, Location, Stream
from gradtool.core.tensors import StoredChecksum, TensorSpec
from gradtool.engine.backend import BatchLimits
from gradtool.engine.overlaps.groups import GroupTask, group_tasks
from gradtool.engine.overlaps.sharing import Sharing
from gradtool.engine.overlaps.views import Layout
from gradtool.engine.reading.followers import Again, ChecksumTask, Followers
from gradtool.engine.reading.pairs.regions import Pair

GAP_BYTES: Final = 1 << 10
"""Bytes between two pieces up to which one read over the gap is cheaper than two reads."""


MOST_OPENED: Final = 1 << 10
"""Packed tensors that one task opens."""


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
    """Blocks of one file to read and measure."""

    file: Location
    blocks: list[Block] = field(default_factory=list)
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class StreamTask:
    """A tensor to read from a stream and measure."""

    target: int
    stream: Stream
    dtype: DType
    big_endian: bool
    layout: Layout | None
    nbytes: int


class Located(NamedTuple):
    """An extent of a target's elements, the first of which has position `first` in its order."""

    extent: Extent
    target: int
    first: int
    spec: TensorSpec


class PackedPiece(NamedTuple):
    """`nbytes` bytes of a target, packed or not, from byte `start` of its elements on."""

    target: int
    spec: TensorSpec
    start: int
    nbytes: int


@dataclass(slots=True)
class PackedTask:
    """Pieces of packed tensors of one file, in its order: to be opened, read and measured."""

    file: Location
    pieces: list[PackedPiece] = field(default_factory=list)
    nbytes: int = 0


@dataclass(slots=True)
class ScaledTask:
    """Pieces of fp8 tensors of one file, in its order: to be read, scaled and measured."""

    file: Location
    pieces: list[PackedPiece] = field(default_factory=list)
    nbytes: int = 0


Task = ReadTask | PackedTask | ScaledTask | StreamTask | GroupTask | ChecksumTask

OneByOne = TypeVar("OneByOne", PackedTask, ScaledTask)


def plan(
    specs: Sequence[TensorSpec],
    sharing: Sharing,
    checksums: Iterable[StoredChecksum],
    limits: BatchLimits,
    pairs: Sequence[Pair] = (),
    digested: Sequence[TensorSpec] = (),
) -> Iterator[Task | Again]:
    """All tasks that measure `specs`, verify `checksums`, compare `pairs` and digest tensors.

    A target is a tensor's position in `specs`. What reads bytes again comes right after what reads
    them first, while the system caches them.
    """
    grouped = {index for group in sharing.groups for index in group}
    alone = [i for i in range(len(specs)) if i not in grouped and i not in sharing.same_as]
    plain = [i for i in alone if specs[i].scale is None]
    followers = Followers(checksums, pairs, digested)
    for task in read_tasks(_in_file_order(specs, plain), limits):
        yield task
        last = task.blocks[-1].pieces[-1]
        yield from followers.after(task.file.path, last.offset + last.nbytes)
    packed = (i for i in plain if specs[i].packed is not None)
    yield from _one_by_one(PackedTask, specs, packed, limits)
    scaled = (i for i in alone if specs[i].scale is not None)
    yield from _one_by_one(ScaledTask, specs, scaled, limits, widened=DTYPES["F64"].itemsize)
    for index in plain:
        spec = specs[index]
        if spec.stream is not None:
            yield StreamTask(
                index, spec.stream, spec.dtype, spec.big_endian, layout_of(spec), spec.nbytes
            )
    for group in sharing.groups:
        yield from group_tasks(specs, group)
    yield from followers.rest()


def layout_of(spec: TensorSpec) -> Layout | None:
    """The layout of a tensor that is not in C order."""
    return None if spec.strides is None else Layout(spec.shape, spec.strides)


def read_tasks(located: Iterable[Located], limits: BatchLimits) -> Iterator[ReadTask]:
    """Tasks that read all extents, given in the order of their files."""
    task: ReadTask | None = None
    for extent, target, first, spec in located:
        itemsize, layout = spec.dtype.itemsize, layout_of(spec)
        for start, nbytes in _steps(extent.nbytes, itemsize, limits):
            is_full = task is not None and task.nbytes + nbytes > limits.task_nbytes
            if task is None or task.file is not extent.file or is_full:
                if task is not None:
                    yield task
                task = ReadTask(extent.file)
            if not task.blocks or not _joins(task.blocks[-1], spec, layout, nbytes, limits):
                task.blocks.append(Block(spec.dtype, spec.big_endian, layout))
            block = task.blocks[-1]
            block.pieces.append(
                Piece(target, first + start // itemsize, extent.offset + start, nbytes)
            )
            block.nbytes += nbytes
            task.nbytes += nbytes
    if task is not None:
        yield task


def _steps(
    nbytes: int, itemsize: int, limits: BatchLimits, widened: int = 0
) -> Iterator[tuple[int, int]]:
    """(start, bytes) of the steps in which a tensor of `nbytes` bytes is read.

    `widened` is the size of what elements become, where that is larger than theirs.
    """
    step = min(limits.block_numel, limits.task_nbytes // max(itemsize, widened)) * itemsize
    for start in range(0, nbytes, step):
        yield start, min(step, nbytes - start)


def _in_file_order(specs: Sequence[TensorSpec], plain: Iterable[int]) -> Iterator[Located]:
    """The extents of tensors in the order of their files: disks read forwards."""
    order: dict[str, int] = {}
    keyed = []
    for index in plain:
        spec = specs[index]
        first = 0
        for extent in spec.extents:
            file = order.setdefault(extent.file.path, len(order))
            keyed.append((file, extent.offset, index, first, extent))
            first += extent.nbytes // spec.dtype.itemsize
    keyed.sort()
    for _, _, index, first, extent in keyed:
        yield Located(extent, index, first, specs[index])


def _one_by_one(
    kind: Callable[[Location], OneByOne],
    specs: Sequence[TensorSpec],
    targets: Iterable[int],
    limits: BatchLimits,
    *,
    widened: int = 0,
) -> Iterator[OneByOne]:
    """Tasks for tensors that are opened or scaled first, each once for a task that reads of it.

    `widened` is as for `_steps`.
    """
    order: dict[str, int] = {}
    keyed = []
    for index in targets:
        if specs[index].packed is None and not specs[index].extents:
            continue  # it has no elements
        location, offset = _start_of(specs[index])
        keyed.append((order.setdefault(location.path, len(order)), offset, index, location))
    keyed.sort(key=itemgetter(0, 1, 2))
    task: OneByOne | None = None
    for *_, index, location in keyed:
        spec = specs[index]
        for start, nbytes in _steps(spec.nbytes, spec.dtype.itemsize, limits, widened):
            is_full = task is not None and (
                task.nbytes + nbytes > limits.task_nbytes or len(task.pieces) == MOST_OPENED
            )
            if task is None or task.file is not location or is_full:
                if task is not None:
                    yield task
                task = kind(location)
            task.pieces.append(PackedPiece(index, spec, start, nbytes))
            task.nbytes += nbytes
    if task is not None:
        yield task


def _start_of(spec: TensorSpec) -> tuple[Location, int]:
    """The file in which a tensor lies, and the byte at which it, or its wrapping, begins."""
    if spec.packed is not None:
        return spec.packed.file, spec.packed.offset
    return spec.extents[0].file, spec.extents[0].offset


def _joins(
    block: Block, spec: TensorSpec, layout: Layout | None, nbytes: int, limits: BatchLimits
) -> bool:
    """Whether `nbytes` more bytes, of `spec`, can be measured in one call with the block."""
    return (
        block.dtype is spec.dtype
        and block.big_endian == spec.big_endian
        and block.layout is None
        and layout is None
        and block.nbytes + nbytes <= limits.block_numel * spec.dtype.itemsize
        and len(block.pieces) < limits.block_pieces
    )
