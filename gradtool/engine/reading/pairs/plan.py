"""Which blocks of two tensors are compared in which tasks; decided as `reading.plan` does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, zip_longest
from typing import Final, NamedTuple

from gradtool.core.shapes.strides import contiguous_strides
from gradtool.engine.backend import PAIR_NBYTES, TASK_BYTES
from gradtool.engine.reading.pairs.gather import first_element
from gradtool.engine.reading.pairs.regions import (
    Pair,
    Places,
    Region,
    Side,
    regions,
    sides_of,
)

TILE_BLOCKS: Final = 2
"""How much larger two blocks are that are put together of rows, which want to be long."""

MOST_FILES: Final = 32
"""Files that a task has open at a time."""


class PairBlock(NamedTuple):
    """Two blocks of a region: `numel` elements from `start` of the walk through `places`.

    Both sides are stored in the order of the walk, or else `places` are of one tile, all of it.
    """

    region: Region
    places: Places
    start: int
    numel: int
    is_stored_so: bool

    @property
    def nbytes(self) -> int:
        """Bytes to read."""
        return self.numel * self.region.itemsize

    def end(self, side: Side) -> tuple[str, int]:
        """The file of one side, and the byte after the last one that is read there, or later."""
        extent = side.spec.extents[-1]
        is_last = not self.is_stored_so or len(side.spec.extents) > 1
        if is_last or extent.nbytes == self.numel * side.spec.dtype.itemsize:
            return extent.file.path, extent.end
        last = first_element(side.spec, side.within(self.region.box)) + self.start + self.numel
        return extent.file.path, extent.offset + last * side.spec.dtype.itemsize


@dataclass(slots=True)
class PairTask:
    """Blocks to read and to compare.

    Attributes:
        end: the byte after the last one that is read of the first tensors' file.
        copies_read: the same of each file that second tensors are in.
    """

    blocks: list[PairBlock] = field(default_factory=list)
    nbytes: int = 0
    end: int = 0
    copies_read: dict[str, int] = field(default_factory=dict)

    def add(self, block: PairBlock) -> None:
        """Add one more block."""
        self.blocks.append(block)
        self.nbytes += block.nbytes
        self.end = max(self.end, block.end(block.region.first)[1])
        path, end = block.end(block.region.second)
        self.copies_read[path] = end


@dataclass(frozen=True, slots=True)
class StreamPairTask:
    """A pair of which a side is no byte range, at least in part; `block_nbytes` as planned."""

    number: int
    pair: Pair
    nbytes: int
    block_nbytes: int


def pair_tasks(
    pairs: Sequence[Pair], block_nbytes: int = PAIR_NBYTES
) -> tuple[Mapping[str, Iterator[PairTask]], list[StreamPairTask]]:
    """All tasks that compare `pairs`: those over byte ranges, and those over streams.

    The first ones are those of each file that a first tensor, or the beginning of one, lies in, in
    the order of that file: whatever is read there may be compared while the system caches it.
    """
    starts: dict[str, list[tuple[int, int]]] = {}
    streams = []
    for number, pair in enumerate(pairs):
        if not pair.numel:
            continue
        if any(part.stream is not None for part in (*pair.first.parts, *pair.second.parts)):
            streams.append(StreamPairTask(number, pair, pair.nbytes, block_nbytes))
            continue
        first = pair.first if not pair.first.chunks else sides_of(pair.first)[0].spec
        extent = first.extents[0]
        starts.setdefault(extent.file.path, []).append((extent.offset, number))
    by_file = {
        path: _tasks_of([(number, pairs[number]) for _, number in sorted(found)], block_nbytes)
        for path, found in starts.items()
    }
    return by_file, streams


def _tasks_of(pairs: Iterable[tuple[int, Pair]], block_nbytes: int) -> Iterator[PairTask]:
    task, files = PairTask(), set[str]()
    copies_of_one = groupby(pairs, lambda numbered: id(numbered[1].first))
    found = (_in_turn(list(copies), block_nbytes) for _, copies in copies_of_one)
    for block in chain.from_iterable(found):
        read = {extent.file.path for side in block.region.sides for extent in side.spec.extents}
        is_full = task.nbytes + block.nbytes > TASK_BYTES
        if task.blocks and (is_full or (not read <= files and len(files | read) > MOST_FILES)):
            yield task
            task, files = PairTask(), set()
        task.add(block)
        files |= read
    if task.blocks:
        yield task


def _in_turn(pairs: Iterable[tuple[int, Pair]], block_nbytes: int) -> Iterator[PairBlock]:
    """The blocks of copies of one tensor, in turn: what is compared with each is read once."""
    blocks_of = [_blocks_of(number, pair, block_nbytes) for number, pair in pairs]
    if len(blocks_of) == 1:
        yield from blocks_of[0]
        return
    for row in zip_longest(*blocks_of):
        yield from (block for block in row if block is not None)


def _blocks_of(number: int, pair: Pair, block_nbytes: int) -> Iterable[PairBlock]:
    """The blocks of a pair, which is at position `number`."""
    if pair.is_plain and pair.nbytes <= block_nbytes:  # most are, where there are very many
        region, order = pair.region(number), contiguous_strides(pair.first.shape)
        places = Places(region.shape, region.box, order)
        return [PairBlock(region, places, 0, pair.numel, is_stored_so=True)]
    return chain.from_iterable(blocks(region, block_nbytes) for region in regions(number, pair))


def blocks(region: Region, block_nbytes: int) -> Iterator[PairBlock]:
    """The blocks that a region is compared in, of so many bytes."""
    order, most = region.order, max(block_nbytes // region.itemsize, 1)
    if order is None:
        for box in region.tiles(TILE_BLOCKS * most):
            places = Places(region.shape, box, contiguous_strides(box.sizes))
            yield PairBlock(region, places, 0, box.numel, is_stored_so=False)
        return
    places, numel = Places(region.shape, region.box, order), region.box.numel
    for start in range(0, numel, most):
        yield PairBlock(region, places, start, min(most, numel - start), is_stored_so=True)
