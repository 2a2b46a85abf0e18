"""Digests of tensors: SHA-256 of their elements, however those are stored and cut.

A tensor's digest is that of the digests of its blocks one after another; a block is a MiB of its
elements, as little-endian bytes in C order, and the last one may be shorter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from gradtool.core.shapes.boxes import boxes_of_range
from gradtool.core.tensors import TensorSpec
from gradtool.engine.backend import TASK_BYTES, Bytes
from gradtool.engine.buffers import BUFFERS
from gradtool.engine.reading.pairs.gather import (
    Sources,
    normalize,
    read_box,
    read_range,
    without_streams,
)
from gradtool.engine.reading.pairs.regions import Side, meetings, sides_of
from gradtool.engine.reading.unpacking import as_stored

BLOCK_NBYTES: Final = 1 << 20


class Span(NamedTuple):
    """Elements from C-order position `start` to `stop` of a tensor: blocks of it, all whole."""

    number: int
    spec: TensorSpec
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Bytes to read."""
        return (self.stop - self.start) * self.spec.dtype.itemsize


@dataclass(slots=True)
class DigestTask:
    """Spans of tensors to read; `end` is the byte after the last one in the file of the first."""

    spans: list[Span] = field(default_factory=list)
    nbytes: int = 0
    end: int = 0


BlockDigests = list[tuple[int, bytes]]
"""The digests of consecutive blocks of tensors, each with the tensor's position in the plan."""


class Digests:
    """The digests of tensors, made of those of their blocks in the order of the plan."""

    def __init__(self) -> None:
        self._hashes: dict[int, hashlib._Hash] = {}

    def add(self, found: BlockDigests) -> None:
        """Add the next ones."""
        for number, digests in found:
            self._hashes.setdefault(number, hashlib.sha256()).update(digests)

    def of(self, number: int) -> str:
        """The digest of a tensor; one without elements has no blocks."""
        return self._hashes.get(number, hashlib.sha256()).hexdigest()


def digest_tasks(
    specs: Sequence[TensorSpec],
) -> tuple[Mapping[str, Iterator[DigestTask]], list[DigestTask]]:
    """All tasks that digest `specs`: those of each file in its order, and those over streams."""
    starts: dict[str, list[tuple[int, int]]] = {}
    streams = []
    for number, spec in enumerate(map(as_stored, specs)):
        sides = sides_of(spec)
        if any(side.spec.stream is not None for side in sides):
            span = Span(number, spec, 0, spec.numel)
            streams.append(DigestTask([span], spec.nbytes))
        elif sides:
            extent = sides[0].spec.extents[0]
            starts.setdefault(extent.file.path, []).append((extent.offset, number))
    by_file = {
        path: _tasks_of([(number, as_stored(specs[number])) for _, number in sorted(found)])
        for path, found in starts.items()
    }
    return by_file, streams


def _tasks_of(specs: Iterable[tuple[int, TensorSpec]]) -> Iterator[DigestTask]:
    task = DigestTask()
    for number, spec in specs:
        extent, itemsize = sides_of(spec)[0].spec.extents[0], spec.dtype.itemsize
        step = TASK_BYTES // BLOCK_NBYTES * (BLOCK_NBYTES // itemsize)
        for start in range(0, spec.numel, step):
            span = Span(number, spec, start, min(start + step, spec.numel))
            if task.nbytes + span.nbytes > TASK_BYTES and task.spans:
                yield task
                task = DigestTask()
            task.spans.append(span)
            task.nbytes += span.nbytes
            read = span.stop * itemsize if _is_plain(spec) else extent.nbytes
            task.end = max(task.end, extent.offset + min(read, extent.nbytes))
    if task.spans:
        yield task


def digests_of(task: DigestTask) -> BlockDigests:
    """The digests of the blocks that `task` reads."""
    return [
        (span.number, b"".join(hashlib.sha256(block.data).digest() for block in blocks_of(span)))
        for span in task.spans
    ]


def blocks_of(span: Span) -> Iterator[Bytes]:
    """The elements of a span in C order, little-endian, block by block; each until the next."""
    spec = span.spec
    if spec.stream is not None and spec.strides is None:
        for piece in spec.stream.pieces(BLOCK_NBYTES):
            raw: Bytes = BUFFERS.first.array(np.uint8, len(piece))
            raw[:] = np.frombuffer(piece, np.uint8)
            normalize(raw, spec)
            yield raw
        return
    # What is put together of rows wants them to be long; the rest, to stay in the cache.
    step = (BLOCK_NBYTES if _is_plain(spec) else TASK_BYTES) // spec.dtype.itemsize
    with ExitStack() as files:
        spec = without_streams(spec, files)
        sides, sources = sides_of(spec), files.enter_context(Sources())
        for start in range(span.start, span.stop, step):
            stop = min(start + step, span.stop)
            raw = BUFFERS.first.array(np.uint8, (stop - start) * spec.dtype.itemsize)
            _read_positions(sources, spec, sides, start, raw)
            for first in range(0, len(raw), BLOCK_NBYTES):
                yield raw[first : first + BLOCK_NBYTES]


def _is_plain(spec: TensorSpec) -> bool:
    return spec.strides is None and not spec.chunks


def _read_positions(
    sources: Sources, spec: TensorSpec, sides: Sequence[Side], start: int, out: Bytes
) -> None:
    """Fill `out` with the elements of a tensor from C-order position `start` on."""
    if _is_plain(spec):
        read_range(sources, spec, start, out)
        return
    itemsize, done = spec.dtype.itemsize, 0
    for box in boxes_of_range(spec.shape, start, start + len(out) // itemsize):
        wanted = out[done : done + box.numel * itemsize].reshape(*box.sizes, itemsize)
        for common, _, side in meetings([Side(box, spec)], sides):
            part = BUFFERS.second.array(np.uint8, common.numel * itemsize)
            read_box(sources, side.spec, side.within(common), part)
            at = zip(common.offsets, common.ends, box.offsets, strict=True)
            place = tuple(slice(first - offset, end - offset) for first, end, offset in at)
            wanted[place] = part.reshape(*common.sizes, itemsize)
        done += box.numel * itemsize
