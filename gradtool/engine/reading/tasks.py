"""What an executor runs: one task in, what the targets it touches are reduced to out.

Functions at module level over plain values: threads, processes and clusters can run them.
Nothing is shared between tasks but a reused buffer for each thread.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gradtool.core.locations import Source
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
from gradtool.engine.reading.reductions import Elements, Reduction, folded
from gradtool.errors import CorruptFileError

NAMED, UNIQUE, UNIQUE_IN_SECTION = range(3)
"""What is reduced: the elements that a tensor names, and those that it names first."""

Target = tuple[int, int]
"""A tensor's position in the plan, and one of the above."""

Part = TypeVar("Part")

Results = list[tuple[Target, Part]]

_CHECKSUM_STEP = 1 << 20


def run(task: Task, reduction: Reduction[Part], backend: Backend) -> Results[Part]:
    """What the elements that `task` reads are reduced to, once for each target among them."""
    match task:
        case ReadTask():
            return _run_reads(task, reduction, backend)
        case StreamTask():
            return _run_stream(task, reduction, backend)
        case GroupTask():
            return _run_group(task, reduction, backend)
        case ChecksumTask():
            _verify_stored(task.checksum)
            return []


def _run_reads(task: ReadTask, reduction: Reduction[Part], backend: Backend) -> Results[Part]:
    found: Results[Part] = []
    with task.file.open() as source:
        for block in task.blocks:
            parts = reduction.of(_read_block(source, block, backend), backend)
            for piece, part in zip(block.pieces, parts, strict=True):
                found.append(((piece.target, NAMED), part))
        source.check_unchanged()
    return _merged(found, reduction)


def _read_block(source: Source, block: Block, backend: Backend) -> Elements:
    """The elements of all pieces, in this thread's buffer."""
    itemsize = block.dtype.itemsize
    counts = [piece.nbytes // itemsize for piece in block.pieces]
    *starts, end = backend.offsets(counts, itemsize)
    raw = backend.buffer(end)
    for run in _runs(block.pieces):
        _read_run(source, block.pieces[run], starts[run], raw.data)
    return _elements(raw, block, counts, [piece.first for piece in block.pieces])


def _elements(raw: Bytes, block: Block, counts: list[int], firsts: list[int]) -> Elements:
    """Elements of tensors in C order, or of one that has a layout."""
    layout = block.layout
    if layout is None:
        return Elements(raw, block.dtype, block.big_endian, counts, firsts)
    (first,) = firsts

    def positions(places: NDArray[np.intp]) -> Int64:
        return layout.positions(places + first)

    return Elements(raw, block.dtype, block.big_endian, counts, firsts, positions)


def _runs(pieces: Sequence[Piece]) -> Iterator[slice]:
    """Pieces one after another that are worth one read."""
    start = 0
    for index in range(1, len(pieces)):
        before, piece = pieces[index - 1], pieces[index]
        if not 0 <= piece.offset - (before.offset + before.nbytes) <= GAP_BYTES:
            yield slice(start, index)
            start = index
    yield slice(start, len(pieces))


def _read_run(
    source: Source, pieces: Sequence[Piece], starts: Sequence[int], buffer: memoryview
) -> None:
    """Read pieces to where they start in the buffer."""
    first, last = pieces[0], pieces[-1]
    nbytes = last.offset + last.nbytes - first.offset
    out = buffer[starts[0] : starts[-1] + last.nbytes]
    if len(out) == nbytes == sum(piece.nbytes for piece in pieces):
        source.read_into(first.offset, out)
        return
    # They lie closer or further apart there than here.
    span = BUFFERS.span.array(np.uint8, nbytes).data
    source.read_into(first.offset, span)
    for piece, start in zip(pieces, starts, strict=True):
        begin = piece.offset - first.offset
        buffer[start : start + piece.nbytes] = span[begin : begin + piece.nbytes]


def _run_stream(task: StreamTask, reduction: Reduction[Part], backend: Backend) -> Results[Part]:
    parts: list[Part] = []
    done = 0
    block = Block(task.dtype, task.big_endian, task.layout)
    for piece in task.stream.pieces(BLOCK_ELEMENTS * task.dtype.itemsize):
        raw = np.frombuffer(piece, np.uint8)
        count = len(raw) // task.dtype.itemsize
        parts += reduction.of(_elements(raw, block, [count], [done]), backend)
        parts = folded(parts, reduction)
        done += count
    return [((task.target, NAMED), reduction.merged(parts))]


def _run_group(task: GroupTask, reduction: Reduction[Part], backend: Backend) -> Results[Part]:
    """Window by window: what each member names there, and what it is the first to name."""
    found: Results[Part] = []
    with task.file.open() as source:
        for start, stop in window_bounds(task.count):
            raw: Bytes | None = None
            claimed: dict[int, NDArray[np.bool_]] = {}
            for index, at, positions in named_between(task.members, start, stop):
                if raw is None:
                    raw = _read_window(source, task, start, stop)
                member = task.members[index]
                named = _reduced(task, raw, at, positions, reduction, backend)
                found.append(((member.target, NAMED), named))
                for scope, role in zip(member.scopes, (UNIQUE, UNIQUE_IN_SECTION), strict=False):
                    fresh = _claim(claimed, scope, at, stop - start)
                    whole = len(fresh) == len(at)
                    if not whole:
                        unique = _reduced(task, raw, fresh, None, reduction, backend)
                    found.append(((member.target, role), named if whole else unique))
        source.check_unchanged()
    return _merged(found, reduction)


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


def _reduced(
    task: GroupTask,
    raw: Bytes,
    at: Int64,
    positions: Int64 | None,
    reduction: Reduction[Part],
    backend: Backend,
) -> Part:
    """What the elements at places `at` are reduced to, which have `positions` in their tensor."""
    if len(at) == 0:
        return reduction.merged(())
    chosen = raw[at].reshape(-1)
    of_chosen = None if positions is None else positions.__getitem__
    elements = Elements(chosen, task.dtype, task.big_endian, [len(at)], [0], of_chosen)
    (part,) = reduction.of(elements, backend)
    return part


def _merged(found: Results[Part], reduction: Reduction[Part]) -> Results[Part]:
    parts: dict[Target, list[Part]] = {}
    for target, part in found:
        parts.setdefault(target, []).append(part)
    return [(target, reduction.merged(of_one)) for target, of_one in parts.items()]


def _verify_stored(checksum: StoredChecksum) -> None:
    """Read what a checksum covers, and compare."""
    crc = 0
    with checksum.covers.file.open() as source:
        for offset in range(checksum.covers.offset, checksum.covers.end, _CHECKSUM_STEP):
            nbytes = min(_CHECKSUM_STEP, checksum.covers.end - offset)
            buffer = BUFFERS.block.array(np.uint8, nbytes).data
            source.read_into(offset, buffer)
            crc = zlib.crc32(buffer, crc)
        source.check_unchanged()
    verify(checksum, crc)


def verify(checksum: StoredChecksum, crc32: int) -> None:
    """CorruptFileError unless what a checksum covers has the checksum that it says."""
    if not checksum.fits(crc32):
        raise CorruptFileError(
            checksum.covers.file.path,
            f"data has CRC-32 {crc32:08x}, the archive says {checksum.crc32:08x}: corrupted",
            tensor=checksum.record,
            byte=checksum.covers.offset,
        )
