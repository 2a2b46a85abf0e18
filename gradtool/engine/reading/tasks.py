"""What an executor runs: one task in, the results for the targets that it reads out.

Functions at module level over plain values: threads, processes and clusters can run them.
Nothing is shared between tasks but a reused buffer for each thread.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gradtool.core.locations import Extent, Source
from gradtool.core.tensors import StoredChecksum, TensorSpec
from gradtool.engine.backend import BLOCK_ELEMENTS, Backend, Bytes
from gradtool.engine.buffers import BUFFERS
from gradtool.engine.numpy_backend.encodings import Float64
from gradtool.engine.overlaps.groups import GroupTask, named_elements, window_bounds
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
from gradtool.engine.reading.reductions import Elements, Gathered, Reduction
from gradtool.engine.reading.scaling import Scales, scaled_elements
from gradtool.engine.reading.unpacking import unpacked_spec
from gradtool.errors import CorruptFileError
from gradtool.storage.archives.within import ReadAhead

NAMED, UNIQUE, UNIQUE_IN_SECTION = range(3)
"""Which elements of a tensor a result is about: all that it names, those that no tensor before it
names, and those that no tensor before it in its section names.
"""

Target = tuple[int, int]
"""What a result is about: a tensor's position in the plan, and one of the above."""

Part = TypeVar("Part")

Results = list[tuple[Target, Part]]

_CHECKSUM_STEP = 1 << 20


def run(task: Task, reduction: Reduction[Part], backend: Backend) -> Results[Part]:
    """The results of the elements that `task` reads, one for each target."""
    match task:
        case ReadTask():
            return _run_reads(task, reduction, backend)
        case PackedTask():
            return _run_packed(task, reduction, backend)
        case ScaledTask():
            return _run_scaled(task, reduction, backend)
        case StreamTask():
            return _run_stream(task, reduction, backend)
        case GroupTask():
            return _run_group(task, reduction, backend)
        case ChecksumTask():
            _verify_stored(task.checksum)
            return []


def _run_reads(task: ReadTask, reduction: Reduction[Part], backend: Backend) -> Results[Part]:
    with task.file.open() as source:
        results = _read_all(source, task, reduction, backend)
        source.check_unchanged()
    return _merged(results, reduction)


def _run_packed(task: PackedTask, reduction: Reduction[Part], backend: Backend) -> Results[Part]:
    """The results of tensors that are opened first; reads of what was found are planned here."""
    results: Results[Part] = []
    with task.file.open() as source:
        found = _located(task, ReadAhead(source))
        for reads in read_tasks(found, backend.limits):
            results += _read_all(source, reads, reduction, backend)
        source.check_unchanged()
    return _merged(results, reduction)


def _run_scaled(task: ScaledTask, reduction: Reduction[Part], backend: Backend) -> Results[Part]:
    """The results of fp8 tensors times their scales, which are read along with them."""
    results: Results[Part] = []
    with task.file.open() as source, Scales(source) as scales:
        for piece in task.pieces:
            if (scale := piece.spec.scale) is not None:  # none is without
                (part,) = reduction.of(scales.elements_of(piece, scale, backend), backend)
                results.append(((piece.target, NAMED), part))
        scales.check_unchanged()
    return _merged(results, reduction)


def _located(task: PackedTask, source: Source) -> Iterator[Located]:
    """Where the pieces of a task are, once their tensors are opened."""
    opened: dict[int, TensorSpec] = {}
    for target, packed, start, nbytes in task.pieces:
        if target not in opened:
            opened = {target: unpacked_spec(packed, source)}  # all pieces of it are in a row
        (extent,) = opened[target].extents
        part = Extent(extent.file, extent.offset + start, nbytes)
        yield Located(part, target, start // packed.dtype.itemsize, opened[target])


def _read_all(
    source: Source, task: ReadTask, reduction: Reduction[Part], backend: Backend
) -> Results[Part]:
    """The results of all pieces of a task, in their order."""
    results: Results[Part] = []
    for block in task.blocks:
        parts = reduction.of(_read_block(source, block, backend), backend)
        for piece, part in zip(block.pieces, parts, strict=True):
            results.append(((piece.target, NAMED), part))
    return results


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


def _run_stream(task: StreamTask, reduction: Reduction[Part], backend: Backend) -> Results[Part]:
    found: Gathered[Target, Part] = Gathered(reduction)
    done = 0
    block = Block(task.dtype, task.big_endian, task.layout)
    for piece in task.stream.pieces(BLOCK_ELEMENTS * task.dtype.itemsize):
        raw = np.frombuffer(piece, np.uint8)
        count = len(raw) // task.dtype.itemsize
        (part,) = reduction.of(_elements(raw, block, [count], [done]), backend)
        found.add([((task.target, NAMED), part)])
        done += count
    return list(found.merged().items())


def _run_group(task: GroupTask, reduction: Reduction[Part], backend: Backend) -> Results[Part]:
    """The results, window by window, of what each member names and of what it is first to name."""
    results: Results[Part] = []
    with task.file.open() as source, Scales(source) as scales:
        for start, stop in window_bounds(task.count):
            raw: Bytes | None = None
            claimed: dict[int, NDArray[np.bool_]] = {}
            for index, offsets, positions in named_elements(task.members, start, stop):
                if raw is None:
                    raw = _read_window(source, task, start, stop)
                member = task.members[index]
                scaled = scales.window(task, raw, member, offsets, positions)
                named = _reduce(task, raw, offsets, positions, reduction, backend, scaled=scaled)
                results.append(((member.target, NAMED), named))
                for scope, role in zip(member.scopes, (UNIQUE, UNIQUE_IN_SECTION), strict=False):
                    fresh = _claim(claimed, scope, offsets, stop - start)
                    are_all_fresh = len(fresh) == len(offsets)
                    if not are_all_fresh:
                        unique = _reduce(task, raw, fresh, None, reduction, backend, scaled=scaled)
                    results.append(((member.target, role), named if are_all_fresh else unique))
        scales.check_unchanged()
    return _merged(results, reduction)


def _read_window(source: Source, task: GroupTask, start: int, stop: int) -> Bytes:
    """Read the window's elements, a row of bytes each."""
    item = task.dtype.itemsize
    raw = BUFFERS.span.array(np.uint8, (stop - start) * item)
    source.read_into(task.offset + start * item, raw.data)
    return raw.reshape(-1, item)


def _claim(claimed: dict[int, NDArray[np.bool_]], scope: int, offsets: Int64, count: int) -> Int64:
    """Claim elements in `scope`; those of them that were not claimed there before, each once."""
    if scope not in claimed:
        claimed[scope] = np.zeros(count, dtype=bool)
    taken = claimed[scope]
    fresh: Int64 = offsets[~taken[offsets]]
    taken[fresh] = True
    # Views that overlap themselves name an element several times in a row.
    repeats: NDArray[np.bool_] = np.diff(fresh, prepend=-1) == 0
    return fresh[~repeats]


def _reduce(
    task: GroupTask,
    raw: Bytes,
    offsets: Int64,
    positions: Int64 | None,
    reduction: Reduction[Part],
    backend: Backend,
    *,
    scaled: Float64 | None,
) -> Part:
    """The result of a window's elements at `offsets`, which have `positions` in their tensor.

    `scaled` are the products of the window's elements and a scale, if that is what is reduced.
    """
    if len(offsets) == 0:
        return reduction.merged(())
    chosen = raw[offsets].reshape(-1)
    position_of = None if positions is None else positions.__getitem__
    elements = Elements(chosen, task.dtype, task.big_endian, [len(offsets)], [0], position_of)
    if scaled is not None:
        elements = scaled_elements(chosen, task.dtype.name, scaled[offsets], 0, position_of)
    (part,) = reduction.of(elements, backend)
    return part


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
