"""What to read, in which pieces: decided before anything is scheduled.

Tasks are plain values, so that any `concurrent.futures.Executor` can run them. Their borders
depend on the catalogue and the backend's limits alone, so that results do not depend on who ran
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar

from gradtool.core.dtypes import DType
from gradtool.core.locations import Extent, Location, Stream
from gradtool.core.tensors import StoredChecksum, TensorSpec
from gradtool.engine.backend import BatchLimits
from gradtool.engine.overlaps.groups import GroupTask, group_tasks
from gradtool.engine.overlaps.sharing import Sharing
from gradtool.engine.overlaps.views import Layout
from gradtool.engine.reading.digests import DigestTask, digest_tasks
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

    @property
    def end(self) -> int:
        """The byte after those that it covers."""
        return self.checksum.covers.end


Task = ReadTask | StreamTask | GroupTask | ChecksumTask
Again = PairTask | StreamPairTask | DigestTask


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
    plain = [i for i in range(len(specs)) if i not in grouped and i not in sharing.same_as]
    followers = _Followers(checksums, pairs, digested)
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


Waiting = TypeVar("Waiting", ChecksumTask, PairTask, DigestTask)


class _Queue(Generic[Waiting]):
    """Tasks in the order of a file, which wait until what they read has been read."""

    def __init__(self, tasks: Iterator[Waiting]) -> None:
        self._tasks: Iterator[Waiting] = tasks
        self._next: Waiting | None = next(tasks, None)

    def until(self, end: int | None) -> Iterator[Waiting]:
        """Take those that read nothing after byte `end`; all for None."""
        while (task := self._next) is not None and (end is None or task.end <= end):
            self._next = next(self._tasks, None)
            yield task


class _Followers:
    """Tasks that read bytes which others read before them, by file."""

    def __init__(
        self,
        checksums: Iterable[StoredChecksum],
        pairs: Sequence[Pair],
        digested: Sequence[TensorSpec],
    ) -> None:
        found: dict[str, list[ChecksumTask]] = {}
        for checksum in checksums:
            task = ChecksumTask(checksum, checksum.covers.nbytes)
            found.setdefault(checksum.covers.file.path, []).append(task)
        compared, compared_streams = pair_tasks(pairs)
        hashed, hashed_streams = digest_tasks(digested)
        self._checksums = {path: _Queue(iter(tasks)) for path, tasks in found.items()}
        self._compared = {path: _Queue(tasks) for path, tasks in compared.items()}
        self._hashed = {path: _Queue(tasks) for path, tasks in hashed.items()}
        self._streams: list[Again] = [*compared_streams, *hashed_streams]

    def of(self, task: ReadTask) -> Iterator[ChecksumTask | Again]:
        """Those whose bytes `task` is the last to read."""
        last = task.blocks[-1].pieces[-1]
        yield from self._until(task.file.path, last.offset + last.nbytes)

    def rest(self) -> Iterator[ChecksumTask | Again]:
        """All others."""
        for path in (*self._compared, *self._hashed):
            yield from self._until(path, None)
        yield from self._streams
        for path in self._checksums:
            yield from self._until(path, None)

    def _until(self, path: str, end: int | None) -> Iterator[ChecksumTask | Again]:
        """Those over bytes of a file up to `end`, and over what is compared with these."""
        yield from self._verified(path, end)
        if path in self._hashed:
            yield from self._hashed[path].until(end)
        for task in self._compared[path].until(end) if path in self._compared else ():
            yield task
            for copy, read in task.copies_read.items():
                yield from self._verified(copy, read)

    def _verified(self, path: str, end: int | None) -> Iterator[ChecksumTask]:
        if path in self._checksums:
            yield from self._checksums[path].until(end)


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
