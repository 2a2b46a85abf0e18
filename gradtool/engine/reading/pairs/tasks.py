"""What an executor runs to compare tensors: one task in, a result for each of its pairs out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TypeVar

import numpy as np

from gradtool.engine.backend import Backend, Bytes
from gradtool.engine.buffers import BUFFERS, Buffer
from gradtool.engine.reading.pairs.comparisons import BlockPair, Comparison
from gradtool.engine.reading.pairs.gather import (
    Sources,
    first_element,
    normalize,
    read_box,
    read_range,
    without_streams,
)
from gradtool.engine.reading.pairs.plan import PairBlock, PairTask, StreamPairTask, blocks
from gradtool.engine.reading.pairs.regions import Pair, Region, Side, regions
from gradtool.engine.reading.pairs.together import read_together, runs
from gradtool.engine.reading.reductions import Gathered

Part = TypeVar("Part")

PairResults = list[tuple[int, Part]]
"""Results, each with the position of the pair in the plan."""


def compare(
    task: PairTask | StreamPairTask, comparison: Comparison[Part], backend: Backend
) -> PairResults[Part]:
    """The results of the elements that `task` reads, one for each pair."""
    if isinstance(task, StreamPairTask):
        streamed = (
            (number, comparison.of(blocks, backend)) for number, blocks in _from_streams(task)
        )
        return list(Gathered(comparison, streamed).merged().items())
    found: Gathered[int, Part] = Gathered(comparison)
    for are_small, run in runs(task.blocks):
        if are_small:
            found.add(comparison.of_many(read_together(run), backend))
        else:
            found.add((number, comparison.of(pair, backend)) for number, pair in _from_ranges(run))
    return list(found.merged().items())


def _from_ranges(found: Iterable[PairBlock]) -> Iterator[tuple[int, BlockPair]]:
    """The elements of blocks that are byte ranges, each pair with its position in the plan."""
    held: tuple[object, ...] = ()
    with Sources() as sources:
        for block in found:
            region = block.region
            # Several copies in turn: what each is compared with is there already.
            wanted = (id(region.first.spec), block.places, block.start, block.numel)
            if wanted != held:
                first = _read(sources, block, region.first, BUFFERS.first)
                held = wanted
            second = _read(sources, block, region.second, BUFFERS.second)
            yield region.pair, _pair(block, first, second)


def _read(sources: Sources, block: PairBlock, side: Side, buffer: Buffer) -> Bytes:
    raw: Bytes = buffer.array(np.uint8, block.numel * side.spec.dtype.itemsize)
    if block.is_stored_so:
        first = first_element(side.spec, side.within(block.region.box))
        read_range(sources, side.spec, first + block.start, raw)
    else:
        read_box(sources, side.spec, side.within(block.places.box), raw)
    return raw


def _pair(block: PairBlock, first: Bytes, second: Bytes) -> BlockPair:
    one, other = block.region.sides
    types = (one.spec.dtype, other.spec.dtype)
    return BlockPair(first, second, types, block.numel, block.start, block.places)


def _from_streams(task: StreamPairTask) -> Iterator[tuple[int, BlockPair]]:
    """The elements of a pair with streams, which are read once each, and in their order."""
    if not spooled_nbytes(task.pair):
        yield from _in_step(next(regions(task.number, task.pair)), task.block_nbytes)
        return
    with ExitStack() as files:
        pair = replace(
            task.pair,
            first=without_streams(task.pair.first, files),
            second=without_streams(task.pair.second, files),
        )
        for region in regions(task.number, pair):
            yield from _from_ranges(blocks(region, task.block_nbytes))


def spooled_nbytes(pair: Pair) -> int:
    """Bytes of a pair that go through temporary files: its streams, unless both are in step."""
    streams = [part.stream for side in (pair.first, pair.second) for part in side.parts]
    nbytes = sum(stream.nbytes for stream in streams if stream is not None)
    if not nbytes:
        return 0
    whole = next(regions(0, pair))
    return 0 if whole.box == pair.whole and _is_in_step(whole) else nbytes


def _is_in_step(region: Region) -> bool:
    """Whether both parts are stored in one order, and streams among them are all in the region."""
    streams = [side for side in region.sides if side.spec.stream is not None]
    return region.order is not None and all(side.box == region.box for side in streams)


def _in_step(region: Region, block_nbytes: int) -> Iterator[tuple[int, BlockPair]]:
    with Sources() as sources:
        one, other = (
            _pieces(sources, region, side, block_nbytes, buffer)
            for side, buffer in zip(region.sides, (BUFFERS.first, BUFFERS.second), strict=True)
        )
        for block, first, second in zip(blocks(region, block_nbytes), one, other, strict=True):
            yield region.pair, _pair(block, first, second)


def _pieces(
    sources: Sources, region: Region, side: Side, block_nbytes: int, buffer: Buffer
) -> Iterator[Bytes]:
    """The bytes of one side of each block of a region."""
    found, stream = blocks(region, block_nbytes), side.spec.stream
    if stream is None:
        for block in found:
            yield _read(sources, block, side, buffer)
        return
    longest = next(found).numel
    for piece in stream.pieces(longest * side.spec.dtype.itemsize):
        raw: Bytes = buffer.array(np.uint8, len(piece))
        raw[:] = np.frombuffer(piece, np.uint8)
        normalize(raw, side.spec)
        yield raw
