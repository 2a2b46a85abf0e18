"""What an executor runs: one task in, the statistics of the targets it touches out.

Functions at module level over plain values: threads, processes and clusters can run them.
Nothing is shared between tasks but a reused buffer for each thread.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gradtool.core.dtypes import DType
from gradtool.core.stats import TensorStats, merge
from gradtool.engine import numpy_kernels as backend
from gradtool.engine.plan import (
    BLOCK_ELEMENTS,
    GAP_BYTES,
    Block,
    Piece,
    ReadTask,
    ScatterTask,
    SealTask,
    StreamTask,
    Task,
)
from gradtool.engine.views import first_position, walk
from gradtool.errors import CorruptFileError
from gradtool.storage.reader import Source, reopen_source
from gradtool.storage.streams import open_stream

Bytes = NDArray[np.uint8]
Result = list[tuple[int, TensorStats]]

_scratch = threading.local()


def run(task: Task, norm_type: float) -> Result:
    """The statistics that `task` finds, as (target, statistics) pairs in file order."""
    match task:
        case ReadTask():
            return _run_reads(task, norm_type)
        case StreamTask():
            return _run_stream(task, norm_type)
        case ScatterTask():
            return _run_scatter(task, norm_type)
        case SealTask():
            return _run_seal(task)


def _run_reads(task: ReadTask, p: float) -> Result:
    found: dict[int, list[TensorStats]] = {}
    with reopen_source(task.file) as source:
        for block in task.blocks:
            raw = _read_block(source, block)
            counts = [piece.nbytes // block.dtype.itemsize for piece in block.pieces]
            results = backend.stats(raw, block.dtype, counts, p, big_endian=block.big_endian)
            for piece, stats in zip(block.pieces, results, strict=True):
                located = _locate(stats, raw, block, piece)
                found.setdefault(piece.target, []).append(located)
        source.check_unchanged()
    return [(target, merge(parts, p)) for target, parts in found.items()]


def _locate(stats: TensorStats, raw: Bytes, block: Block, piece: Piece) -> TensorStats:
    """The statistics with `first_nonfinite` counted in C order over the whole tensor."""
    if stats.first_nonfinite is None:
        return stats
    if block.layout is None:
        return replace(stats, first_nonfinite=piece.first + stats.first_nonfinite)
    positions = backend.nonfinite_positions(raw, block.dtype, big_endian=block.big_endian)
    return replace(stats, first_nonfinite=first_position(block.layout, positions + piece.first))


def _read_block(source: Source, block: Block) -> Bytes:
    """The bytes of all pieces, one after another, in this thread's buffer."""
    buffer = _buffer("block", block.nbytes)
    filled = 0
    for offset, nbytes, pieces in _runs(block.pieces):
        wanted = sum(piece.nbytes for piece in pieces)
        if nbytes == wanted:
            source.read_into(offset, buffer[filled : filled + nbytes])
        else:
            _read_with_gaps(source, offset, nbytes, pieces, buffer[filled : filled + wanted])
        filled += wanted
    return np.frombuffer(buffer, np.uint8, block.nbytes)


def _runs(pieces: list[Piece]) -> Iterator[tuple[int, int, list[Piece]]]:
    """(offset, bytes, pieces) of each stretch of the file that is worth one read."""
    run: list[Piece] = []
    end = 0
    for piece in pieces:
        if run and not 0 <= piece.offset - end <= GAP_BYTES:
            yield run[0].offset, end - run[0].offset, run
            run = []
        run.append(piece)
        end = piece.offset + piece.nbytes
    yield run[0].offset, end - run[0].offset, run


def _read_with_gaps(
    source: Source, offset: int, nbytes: int, pieces: list[Piece], out: memoryview
) -> None:
    span = _buffer("span", nbytes)
    source.read_into(offset, span)
    filled = 0
    for piece in pieces:
        start = piece.offset - offset
        out[filled : filled + piece.nbytes] = span[start : start + piece.nbytes]
        filled += piece.nbytes


def _run_stream(task: StreamTask, p: float) -> Result:
    parts = [TensorStats(p)]
    done = 0
    for piece in open_stream(task.stream, BLOCK_ELEMENTS * task.dtype.itemsize):
        raw = np.frombuffer(piece, np.uint8)
        count = len(raw) // task.dtype.itemsize
        (stats,) = backend.stats(raw, task.dtype, [count], p, big_endian=task.big_endian)
        block = Block(task.dtype, task.big_endian, task.layout)
        parts.append(_locate(stats, raw, block, Piece(task.target, done, 0, len(raw))))
        parts = [merge(parts, p)] if len(parts) > _FOLD else parts
        done += count
    return [(task.target, merge(parts, p))]


_FOLD = 1 << 10
"""Parts kept before they are merged: memory stays constant, roundings stay few."""


def _run_scatter(task: ScatterTask, p: float) -> Result:
    spec = task.target.spec
    parts = [TensorStats(p)]
    (extent,) = spec.extents
    with reopen_source(extent.file) as source:
        for offsets, positions in walk(task.target, task.start, task.stop):
            if len(offsets) == 0:
                continue
            raw = _gather(source, extent.offset, offsets, spec.dtype)
            (stats,) = backend.stats(raw, spec.dtype, [len(offsets)], p, big_endian=spec.big_endian)
            if stats.first_nonfinite is not None:
                bad = backend.nonfinite_positions(raw, spec.dtype, big_endian=spec.big_endian)
                stats = replace(stats, first_nonfinite=int(positions[bad].min()))
            parts.append(stats)
        source.check_unchanged()
    return [(task.index, merge(parts, p))]


def _gather(source: Source, base: int, offsets: NDArray[np.int64], dtype: DType) -> Bytes:
    """The elements at `offsets`, read in stretches of at most a block."""
    item = dtype.itemsize
    gathered = np.empty((len(offsets), item), np.uint8)
    order = np.argsort(offsets, kind="stable")
    ordered = offsets[order]
    start = 0
    while start < len(ordered):
        low = int(ordered[start])
        stop = int(np.searchsorted(ordered, low + BLOCK_ELEMENTS))
        nbytes = (int(ordered[stop - 1]) - low + 1) * item
        span = _buffer("span", nbytes)
        source.read_into(base + low * item, span)
        elements = np.frombuffer(span, np.uint8).reshape(-1, item)
        gathered[order[start:stop]] = elements[ordered[start:stop] - low]
        start = stop
    return gathered.reshape(-1)


def _run_seal(task: SealTask) -> Result:
    seal = task.seal
    crc = 0
    with reopen_source(seal.covers.file) as source:
        for offset in range(seal.covers.offset, seal.covers.end, 1 << 20):
            buffer = _buffer("block", min(1 << 20, seal.covers.end - offset))
            source.read_into(offset, buffer)
            crc = zlib.crc32(buffer, crc)
        source.check_unchanged()
    if crc != seal.crc32:
        raise CorruptFileError(
            seal.covers.file.path,
            f"data has CRC-32 {crc:08x}, the archive says {seal.crc32:08x}: corrupted",
            tensor=seal.record,
            byte=seal.covers.offset,
        )
    return []


def _buffer(name: str, nbytes: int) -> memoryview:
    """`nbytes` bytes of this thread's buffer of that name, grown when a larger one is asked."""
    held: bytearray | None = getattr(_scratch, name, None)
    if held is None or len(held) < nbytes:
        held = bytearray(nbytes)
        setattr(_scratch, name, held)
    return memoryview(held)[:nbytes]
