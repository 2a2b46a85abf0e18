"""What to read, in which pieces: decided before anything is scheduled.

Tasks are plain values, so that any `concurrent.futures.Executor` can run them. Their borders
depend on the catalogue and the backend's limits alone, so that results do not depend on who ran
them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gradtool.core.dtypes import DType
from gradtool.core.locations import Extent, Location, Stream
from gradtool.core.tensors import StoredChecksum, TensorSpec
from gradtool.engine.backend import BatchLimits
from gradtool.engine.overlaps.groups import GroupTask, group_tasks
from gradtool.engine.overlaps.sharing import Sharing
from gradtool.engine.overlaps.views import Layout
from gradtool.engine.reading.pairs.plan import PairTask, StreamPairTask, pair_tasks
from gradtool.engine.reading.pairs.regions import Pair

GAP_BYTES: Final = 1 << 10
"""Bytes between two pieces up to which one read over the gap is cheaper than two reads."""


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


@dataclass(frozen=True, slots=True)
class ChecksumTask:
    """A stored checksum to verify."""

    checksum: StoredChecksum
    nbytes: int


Task = ReadTask | StreamTask | GroupTask | ChecksumTask


def plan(
    specs: Sequence[TensorSpec],
    sharing: Sharing,
    checksums: Iterable[StoredChecksum],
    limits: BatchLimits,
    pairs: Sequence[Pair] = (),
) -> Iterator[Task | PairTask | StreamPairTask]:
    """All tasks that measure `specs`, verify `checksums` and compare `pairs`.

    A target is a tensor's position in `specs`. What reads bytes again comes right after what reads
    them first, while the system caches them.
    """
    grouped = {index for group in sharing.groups for index in group}
    plain = [i for i in range(len(specs)) if i not in grouped and i not in sharing.same_as]
    followers = _Followers(checksums, pairs)
    for task in _read_tasks(specs, plain, limits):
        yield task
        yield from followers.of(task)
    for index in plain:
        spec = specs[index]
        if spec.stream is not None:
            yield StreamTask(
                index, spec.stream, spec.dtype, spec.big_endian, layout_of(spec), spec.nbytes
            )
    for group in sharing.groups:
        yield from group_tasks(specs, group)
    yield from followers.rest()


class _Followers:
    """Tasks that read bytes which others read before them, by file and in its order."""

    def __init__(self, checksums: Iterable[StoredChecksum], pairs: Sequence[Pair]) -> None:
        self._checksums: dict[str, deque[StoredChecksum]] = {}
        for checksum in checksums:
            self._checksums.setdefault(checksum.covers.file.path, deque()).append(checksum)
        self._comparisons, self._streams = pair_tasks(pairs)
        self._next = {path: next(tasks, None) for path, tasks in self._comparisons.items()}

    def of(self, task: ReadTask) -> Iterator[ChecksumTask | PairTask]:
        """Those whose bytes `task` is the last to read."""
        path, last = task.file.path, task.blocks[-1].pieces[-1]
        yield from self._verified(path, last.offset + last.nbytes)
        yield from self._compared(path, last.offset + last.nbytes)

    def rest(self) -> Iterator[ChecksumTask | PairTask | StreamPairTask]:
        """All others."""
        for path in self._comparisons:
            yield from self._compared(path, None)
        yield from self._streams
        for path in self._checksums:
            yield from self._verified(path, None)

    def _verified(self, path: str, end: int | None) -> Iterator[ChecksumTask]:
        """Checksums over bytes up to `end` of a file, or up to its own."""
        checksums = self._checksums.get(path)
        while checksums and (end is None or checksums[0].covers.end <= end):
            checksum = checksums.popleft()
            yield ChecksumTask(checksum, checksum.covers.nbytes)

    def _compared(self, path: str, end: int | None) -> Iterator[ChecksumTask | PairTask]:
        """Comparisons of bytes up to `end` of a file, and checksums over the copies' bytes."""
        while (task := self._next.get(path)) and (end is None or task.end <= end):
            self._next[path] = next(self._comparisons[path], None)
            yield task
            for copy, copy_end in task.copies_read.items():
                yield from self._verified(copy, copy_end)


def layout_of(spec: TensorSpec) -> Layout | None:
    """The layout of a tensor that is not in C order."""
    return None if spec.strides is None else Layout(spec.shape, spec.strides)


def _read_tasks(
    specs: Sequence[TensorSpec], plain: Iterable[int], limits: BatchLimits
) -> Iterator[ReadTask]:
    task: ReadTask | None = None
    for extent, index, first in _extents_in_file_order(specs, plain):
        spec = specs[index]
        itemsize, layout = spec.dtype.itemsize, layout_of(spec)
        step = min(limits.block_numel, limits.task_nbytes // itemsize) * itemsize
        for start in range(0, extent.nbytes, step):
            nbytes = min(step, extent.nbytes - start)
            is_full = task is not None and task.nbytes + nbytes > limits.task_nbytes
            if task is None or task.file is not extent.file or is_full:
                if task is not None:
                    yield task
                task = ReadTask(extent.file)
            if not task.blocks or not _joins(task.blocks[-1], spec, layout, nbytes, limits):
                task.blocks.append(Block(spec.dtype, spec.big_endian, layout))
            block = task.blocks[-1]
            block.pieces.append(
                Piece(index, first + start // itemsize, extent.offset + start, nbytes)
            )
            block.nbytes += nbytes
            task.nbytes += nbytes
    if task is not None:
        yield task


def _extents_in_file_order(
    specs: Sequence[TensorSpec], plain: Iterable[int]
) -> Iterator[tuple[Extent, int, int]]:
    """(extent, target, position of its first element) in file order: disks read forwards."""
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
        yield extent, index, first


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
