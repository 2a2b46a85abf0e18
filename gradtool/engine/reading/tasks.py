"""What an executor runs: one task in, the statistics of the targets it touches out.

Functions at module level over plain values: threads, processes and clusters can run them.
Nothing is shared between tasks but a reused buffer for each thread.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gradtool.core.locations import Source
from gradtool.core.stats import TensorStats, folded, merge
from gradtool.core.tensors import StoredChecksum
from gradtool.engine.backend import BLOCK_ELEMENTS, Backend, Bytes
from gradtool.engine.buffers import BUFFERS
from gradtool.engine.overlaps.groups import GroupTask, named_between, window_bounds
from gradtool.engine.overlaps.views import Int64
from gradtool.engine.reading.plan import (
    GAP_BYTES,
    Block,
    ChecksumTask,
    Piece,
    ReadTask,
    StreamTask,
    Task,
)
from gradtool.errors import CorruptFileError

NAMED, UNIQUE, UNIQUE_IN_SECTION = range(3)
"""What statistics are over: the elements that a tensor names, and those that it names first."""

Target = tuple[int, int]
"""A tensor's position in the plan, and one of the above."""

Result = list[tuple[Target, TensorStats]]

_CHECKSUM_STEP = 1 << 20


def run(task: Task, norm_type: float, backend: Backend) -> Result:
    """The statistics that `task` finds, as (target, statistics) pairs."""
    match task:
        case ReadTask():
            return _run_reads(task, norm_type, backend)
        case StreamTask():
            return _run_stream(task, norm_type, backend)
        case GroupTask():
            return _run_group(task, norm_type, backend)
        case ChecksumTask():
            return _run_checksum(task)


def _run_reads(task: ReadTask, p: float, backend: Backend) -> Result:
    found: Result = []
    with task.file.open() as source:
        for block in task.blocks:
            raw = _read_block(source, block, backend)
            counts = [piece.nbytes // block.dtype.itemsize for piece in block.pieces]
            results = backend.stats(raw, block.dtype, counts, p, big_endian=block.big_endian)
            for piece, stats in zip(block.pieces, results, strict=True):
                found.append(((piece.target, NAMED), _locate(stats, raw, block, piece, backend)))
        source.check_unchanged()
    return _merged(found, p)


def _locate(
    stats: TensorStats, raw: Bytes, block: Block, piece: Piece, backend: Backend
) -> TensorStats:
    """The statistics with `first_nonfinite` counted in C order over the whole tensor."""
    if stats.first_nonfinite is None:
        return stats
    if block.layout is None:
        return replace(stats, first_nonfinite=piece.first + stats.first_nonfinite)
    positions = backend.nonfinite_positions(raw, block.dtype, big_endian=block.big_endian)
    return replace(stats, first_nonfinite=block.layout.first_position(positions + piece.first))


def _read_block(source: Source, block: Block, backend: Backend) -> Bytes:
    """The bytes of all pieces, one after another, in this thread's buffer."""
    unit = backend.limits.alignment * block.dtype.itemsize
    raw = backend.buffer(_padded(block.pieces, unit))
    buffer = raw.data
    filled = 0
    for offset, nbytes, pieces in _runs(block.pieces):
        wanted = _padded(pieces, unit)
        out = buffer[filled : filled + wanted]
        if len(pieces) == 1 or nbytes == wanted == _padded(pieces, 1):
            source.read_into(offset, out[:nbytes])
            out[nbytes:] = bytes(wanted - nbytes)
        else:
            _read_apart(source, offset, nbytes, pieces, out, unit)
        filled += wanted
    return raw


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


def _padded(pieces: list[Piece], unit: int) -> int:
    return sum(-(-piece.nbytes // unit) * unit for piece in pieces)


def _read_apart(
    source: Source,
    offset: int,
    nbytes: int,
    pieces: list[Piece],
    out: memoryview,
    unit: int,
) -> None:
    """Pieces that lie closer or further apart there than here, where each fills whole units."""
    span = BUFFERS.span.array(np.uint8, nbytes).data
    source.read_into(offset, span)
    filled = 0
    for piece in pieces:
        start, end = piece.offset - offset, filled + piece.nbytes
        out[filled:end] = span[start : start + piece.nbytes]
        filled = end + -end % unit
        out[end:filled] = bytes(filled - end)


def _run_stream(task: StreamTask, p: float, backend: Backend) -> Result:
    parts = [TensorStats(p)]
    done = 0
    for piece in task.stream.pieces(BLOCK_ELEMENTS * task.dtype.itemsize):
        raw = np.frombuffer(piece, np.uint8)
        count = len(raw) // task.dtype.itemsize
        (stats,) = backend.stats(raw, task.dtype, [count], p, big_endian=task.big_endian)
        block = Block(task.dtype, task.big_endian, task.layout)
        parts.append(_locate(stats, raw, block, Piece(task.target, done, 0, len(raw)), backend))
        parts = folded(parts, p)
        done += count
    return [((task.target, NAMED), merge(parts, p))]


def _run_group(task: GroupTask, p: float, backend: Backend) -> Result:
    """Window by window: what each member names there, and what it is the first to name."""
    found: Result = []
    with task.file.open() as source:
        for start, stop in window_bounds(task.count):
            raw: Bytes | None = None
            claimed: dict[int, NDArray[np.bool_]] = {}
            for index, at, positions in named_between(task.members, start, stop):
                if raw is None:
                    raw = _read_window(source, task, start, stop)
                member = task.members[index]
                named = _stats_at(task, raw, at, positions, p, backend)
                found.append(((member.target, NAMED), named))
                for scope, role in zip(member.scopes, (UNIQUE, UNIQUE_IN_SECTION), strict=False):
                    fresh = _claim(claimed, scope, at, stop - start)
                    whole = len(fresh) == len(at)
                    unique = named if whole else _stats_at(task, raw, fresh, None, p, backend)
                    found.append(((member.target, role), unique))
        source.check_unchanged()
    return _merged(found, p)


def _read_window(source: Source, task: GroupTask, start: int, stop: int) -> Bytes:
    """The window's elements, a row of bytes each."""
    item = task.dtype.itemsize
    raw = BUFFERS.span.array(np.uint8, (stop - start) * item)
    source.read_into(task.offset + start * item, raw.data)
    return raw.reshape(-1, item)


def _claim(claimed: dict[int, NDArray[np.bool_]], scope: int, at: Int64, count: int) -> Int64:
    """The elements that nobody in `scope` has claimed so far, each once; they are now."""
    if scope not in claimed:
        claimed[scope] = np.zeros(count, dtype=bool)
    taken = claimed[scope]
    fresh: Int64 = at[~taken[at]]
    taken[fresh] = True
    # Views that overlap themselves name an element several times in a row.
    repeats: NDArray[np.bool_] = np.diff(fresh, prepend=-1) == 0
    return fresh[~repeats]


def _stats_at(
    task: GroupTask,
    raw: Bytes,
    at: Int64,
    positions: Int64 | None,
    p: float,
    backend: Backend,
) -> TensorStats:
    """Statistics of the elements at places `at`, which have `positions` in their tensor."""
    if len(at) == 0:
        return TensorStats(p)
    chosen = raw[at].reshape(-1)
    (stats,) = backend.stats(chosen, task.dtype, [len(at)], p, big_endian=task.big_endian)
    if stats.first_nonfinite is None or positions is None:
        return stats
    bad = backend.nonfinite_positions(chosen, task.dtype, big_endian=task.big_endian)
    return replace(stats, first_nonfinite=int(positions[bad].min()))


def _merged(found: Result, p: float) -> Result:
    parts: dict[Target, list[TensorStats]] = {}
    for target, stats in found:
        parts.setdefault(target, []).append(stats)
    return [(target, merge(stats, p)) for target, stats in parts.items()]


def _run_checksum(task: ChecksumTask) -> Result:
    checksum = task.checksum
    crc = 0
    with checksum.covers.file.open() as source:
        for offset in range(checksum.covers.offset, checksum.covers.end, _CHECKSUM_STEP):
            nbytes = min(_CHECKSUM_STEP, checksum.covers.end - offset)
            buffer = BUFFERS.block.array(np.uint8, nbytes).data
            source.read_into(offset, buffer)
            crc = zlib.crc32(buffer, crc)
        source.check_unchanged()
    verify(checksum, crc)
    return []


def verify(checksum: StoredChecksum, crc32: int) -> None:
    """CorruptFileError unless what a checksum covers has the checksum that it says."""
    if not checksum.fits(crc32):
        raise CorruptFileError(
            checksum.covers.file.path,
            f"data has CRC-32 {crc32:08x}, the archive says {checksum.crc32:08x}: corrupted",
            tensor=checksum.record,
            byte=checksum.covers.offset,
        )
