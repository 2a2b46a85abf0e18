"""What an executor runs: one task in, the results for the targets that it reads out.

Functions at module level over plain values: threads, processes and clusters can run them.
Nothing is shared between tasks but a reused buffer for each thread.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gradtool.core.locations import Extent, Source
from gradtool.core.tensors import StoredChecksum, TensorSpec
from gradtool.engine.backend import BLOCK_ELEMENTS, Backend, Bytes
from gradtool.engine.buffers import BUFFERS
from gradtool.engine.overlaps.groups import GroupTask
from gradtool.engine.overlaps.views import Int64
from gradtool.engine.reading.followers import ChecksumTask
from gradtool.engine.reading.plan import (
    GAP_BYTES,
    Block,
    Located,
    PackedTask,
    Piece,
    ReadTask,
    ScaledTask,
    StreamTask,
    Task,
    read_tasks,
)
from gradtool.engine.reading.reductions import Elements, Gathered, Part, Reduction
from gradtool.engine.reading.scaling import Scales
from gradtool.engine.reading.targets import NAMED, Apart, OfBands, Reducing, Results, Target
from gradtool.engine.reading.unpacking import unpacked_spec
from gradtool.engine.reading.windows import run_group
from gradtool.errors import CorruptFileError
from gradtool.storage.archives.within import ReadAhead

_CHECKSUM_STEP = 1 << 20


def run(
    task: Task, reduction: Reduction[Part], backend: Backend, apart: Apart
) -> tuple[Results[Part], OfBands]:
    """The results of the elements that `task` reads, one for each target, and those of bands."""
    reducing = Reducing(reduction, backend, apart)
    results = _run(task, reducing)
    return results, {target: found.packed() for target, found in reducing.of_bands.items()}


def _run(task: Task, reducing: Reducing[Part]) -> Results[Part]:
    match task:
        case ReadTask():
            return _run_reads(task, reducing)
        case PackedTask():
            return _run_packed(task, reducing)
        case ScaledTask():
            return _run_scaled(task, reducing)
        case StreamTask():
            return _run_stream(task, reducing)
        case GroupTask():
            return run_group(task, reducing)
        case ChecksumTask():
            _verify_stored(task.checksum)
            return []


def _run_reads(task: ReadTask, reducing: Reducing[Part]) -> Results[Part]:
    with task.file.open() as source:
        results = _read_all(source, task, reducing)
        source.check_unchanged()
    return _merged(results, reducing.reduction)


def _run_packed(task: PackedTask, reducing: Reducing[Part]) -> Results[Part]:
    """The results of tensors that are opened first; reads of what was found are planned here."""
    results: Results[Part] = []
    with task.file.open() as source:
        found = _located(task, ReadAhead(source))
        for reads in read_tasks(found, reducing.backend.limits):
            results += _read_all(source, reads, reducing)
        source.check_unchanged()
    return _merged(results, reducing.reduction)


def _run_scaled(task: ScaledTask, reducing: Reducing[Part]) -> Results[Part]:
    """The results of fp8 tensors times their scales, which are read along with them."""
    results: Results[Part] = []
    with task.file.open() as source, Scales(source) as scales:
        for piece in task.pieces:
            if (scale := piece.spec.scale) is not None:  # none is without
                elements = scales.elements_of(piece, scale, reducing.backend)
                (part,) = reducing.of(elements)
                results.append(((piece.target, NAMED), part))
                reducing.tell_apart(piece.target, elements)
        scales.check_unchanged()
    return _merged(results, reducing.reduction)


def _located(task: PackedTask, source: Source) -> Iterator[Located]:
    """Where the pieces of a task are, once their tensors are opened."""
    opened: dict[int, TensorSpec] = {}
    for target, packed, start, nbytes in task.pieces:
        if target not in opened:
            opened = {target: unpacked_spec(packed, source)}  # all pieces of it are in a row
        (extent,) = opened[target].extents
        part = Extent(extent.file, extent.offset + start, nbytes)
        yield Located(part, target, start // packed.dtype.itemsize, opened[target])


def _read_all(source: Source, task: ReadTask, reducing: Reducing[Part]) -> Results[Part]:
    """The results of all pieces of a task, in their order."""
    results: Results[Part] = []
    for block in task.blocks:
        elements = _read_block(source, block, reducing.backend)
        parts = reducing.of(elements)
        for piece, part in zip(block.pieces, parts, strict=True):
            results.append(((piece.target, NAMED), part))
        if not reducing.apart.bands.keys().isdisjoint(piece.target for piece in block.pieces):
            starts = reducing.backend.offsets(elements.counts, block.dtype.itemsize)
            for number, piece in enumerate(block.pieces):
                segment = _segment(elements, number, starts)
                reducing.tell_apart(piece.target, segment)
    return results


def _segment(elements: Elements, number: int, starts: Sequence[int]) -> Elements:
    """One of the segments by itself; `starts` are the bytes at which they begin."""
    nbytes = elements.counts[number] * elements.dtype.itemsize
    return replace(
        elements,
        raw=elements.raw[starts[number] : starts[number] + nbytes],
        counts=[elements.counts[number]],
        firsts=[elements.firsts[number]],
    )


def _read_block(source: Source, block: Block, backend: Backend) -> Elements:
    """Read the elements of all pieces of a block into this thread's buffer."""
    itemsize = block.dtype.itemsize
    counts = [piece.nbytes // itemsize for piece in block.pieces]
    *starts, end = backend.offsets(counts, itemsize)
    raw = backend.buffer(end)
    for near in _near_pieces(block.pieces):
        _read_pieces(source, block.pieces[near], starts[near], raw.data)
    return _elements(raw, block, counts, [piece.first for piece in block.pieces])


def _elements(raw: Bytes, block: Block, counts: list[int], firsts: list[int]) -> Elements:
    """The elements of a block, of tensors in C order or of one tensor with a layout."""
    layout = block.layout
    if layout is None:
        return Elements(raw, block.dtype, block.big_endian, counts, firsts)
    (first,) = firsts

    def positions(places: NDArray[np.intp]) -> Int64:
        return layout.positions(places + first)

    return Elements(raw, block.dtype, block.big_endian, counts, firsts, positions)


def _near_pieces(pieces: Sequence[Piece]) -> Iterator[slice]:
    """Consecutive pieces that lie so near each other in the file that one read is cheapest."""
    start = 0
    for index in range(1, len(pieces)):
        before, piece = pieces[index - 1], pieces[index]
        if not 0 <= piece.offset - (before.offset + before.nbytes) <= GAP_BYTES:
            yield slice(start, index)
            start = index
    yield slice(start, len(pieces))


def _read_pieces(
    source: Source, pieces: Sequence[Piece], starts: Sequence[int], buffer: memoryview
) -> None:
    """Read pieces of a file in one go, each to its start in the buffer."""
    first, last = pieces[0], pieces[-1]
    nbytes = last.offset + last.nbytes - first.offset
    out = buffer[starts[0] : starts[-1] + last.nbytes]
    if len(out) == nbytes == sum(piece.nbytes for piece in pieces):
        source.read_into(first.offset, out)
        return
    # The gaps between them are others in the file than in the buffer.
    span = BUFFERS.span.array(np.uint8, nbytes).data
    source.read_into(first.offset, span)
    for piece, start in zip(pieces, starts, strict=True):
        begin = piece.offset - first.offset
        buffer[start : start + piece.nbytes] = span[begin : begin + piece.nbytes]


def _run_stream(task: StreamTask, reducing: Reducing[Part]) -> Results[Part]:
    found: Gathered[Target, Part] = Gathered(reducing.reduction)
    done = 0
    block = Block(task.dtype, task.big_endian, task.layout)
    for piece in task.stream.pieces(BLOCK_ELEMENTS * task.dtype.itemsize):
        raw = np.frombuffer(piece, np.uint8)
        count = len(raw) // task.dtype.itemsize
        elements = _elements(raw, block, [count], [done])
        (part,) = reducing.of(elements)
        found.add([((task.target, NAMED), part)])
        reducing.tell_apart(task.target, elements)
        done += count
    return list(found.merged().items())


def _merged(results: Results[Part], reduction: Reduction[Part]) -> Results[Part]:
    """One result for each target, in the order in which targets first occur."""
    return list(Gathered(reduction, results).merged().items())


def _verify_stored(checksum: StoredChecksum) -> None:
    """Read the bytes under a checksum and verify it."""
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
    """CorruptFileError unless `crc32`, of the bytes under a checksum, is what the file says."""
    if not checksum.fits(crc32):
        raise CorruptFileError(
            checksum.covers.file.path,
            f"data has CRC-32 {crc32:08x}, the archive says {checksum.crc32:08x}: corrupted",
            tensor=checksum.record,
            byte=checksum.covers.offset,
        )
