"""Rows of a tensor as a tensor of their own, however it is stored; nothing is read for it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.comparing.names.maps import Piece
from gradtool.core.locations import Extent, Stream
from gradtool.core.shapes.boxes import Box
from gradtool.core.shapes.rows import Cut
from gradtool.core.shapes.strides import contiguous_strides, span
from gradtool.core.tensors import Chunk, TensorSpec
from gradtool.engine.backend import Bytes
from gradtool.errors import UsageError

_MOST_PARTS: Final = 1 << 22
"""Chunks and extents that are looked at for all rows together, each for all rows of its tensor."""

_READ_NBYTES: Final = 1 << 20
"""Bytes of a stream that are looked at together."""


def cut_up(checkpoint: Checkpoint, pieces: Sequence[Piece]) -> Checkpoint:
    """The catalogue, whose tensors are opened, of those pieces of them, in their order.

    UsageError where they are too many.
    """
    if all(piece.cut is None for piece in pieces):
        return checkpoint
    specs, found, looked_at = checkpoint.tensors, [], 0
    for piece in pieces:
        spec = specs[piece.number]
        if piece.cut is not None:
            looked_at += len(spec.chunks) + len(spec.extents)
            if looked_at > _MOST_PARTS:
                problem = f"rows of {spec.name!r:.80} and others, which are in many parts"
                raise UsageError(f"{checkpoint.path}: `name_map` takes too many {problem}")
            section, name = piece.key
            spec = rows_of(spec, piece.cut).under(name, section)
        found.append(spec)
    return replace(checkpoint, tensors=tuple(found))


def rows_of(spec: TensorSpec, cut: Cut) -> TensorSpec:
    """The rows of an opened tensor, which has them; one row by itself has no first axis."""
    found = _rows(spec, cut.start, cut.stop)
    return _without_first_axis(found) if cut.is_one else found


def _rows(spec: TensorSpec, start: int, stop: int) -> TensorSpec:
    size, shape = spec.shape[0], (stop - start, *spec.shape[1:])
    if (start, stop) == (0, size):
        return spec
    if spec.chunks:
        parts = (_rows_of_chunk(chunk, start, stop) for chunk in spec.chunks)
        return replace(spec, shape=shape, chunks=tuple(part for part in parts if part is not None))
    found = replace(spec, shape=shape, extents=(), stream=None, packed=None)
    if not math.prod(shape):
        return found
    strides = contiguous_strides(spec.shape) if spec.strides is None else spec.strides
    step = strides[0] * spec.dtype.itemsize
    if spec.stream is None:
        nbytes = span(shape, strides) * spec.dtype.itemsize
        return replace(found, extents=tuple(_within(spec.extents, start * step, nbytes)))
    # A stream has no gaps: of each run of all rows those that are wanted are left.
    if spec.strides is not None:
        narrow = (s // size * shape[0] if s > strides[0] else s for s in spec.strides)
        found = replace(found, strides=tuple(narrow))
    stream = RowsOfStream(spec.stream, size * step, start * step, stop * step)
    return replace(found, stream=stream)


def _rows_of_chunk(chunk: Chunk, start: int, stop: int) -> Chunk | None:
    """What a chunk holds of the rows, as a chunk of them; None if it holds nothing."""
    (offset, *others), (size, *sizes) = chunk.box.offsets, chunk.box.sizes
    first, last = max(start, offset), min(stop, offset + size)
    if first >= last:
        return None
    box = Box((first - start, *others), (last - first, *sizes))
    return Chunk(box, _rows(chunk.stored, first - offset, last - offset))


def _within(extents: Sequence[Extent], offset: int, nbytes: int) -> Iterator[Extent]:
    """The bytes from `offset` on of extents that follow each other."""
    for extent in extents:
        first, last = max(offset, 0), min(offset + nbytes, extent.nbytes)
        if first < last:
            yield Extent(extent.file, extent.offset + first, last - first)
        offset -= extent.nbytes


def _without_first_axis(spec: TensorSpec) -> TensorSpec:
    """A tensor of one row as that row."""
    strides = None if spec.strides is None else spec.strides[1:]
    chunks = tuple(
        Chunk(Box(box.offsets[1:], box.sizes[1:]), _without_first_axis(stored))
        for box, stored in ((chunk.box, chunk.stored) for chunk in spec.chunks)
        if box.numel  # one without rows would have elements then
    )
    return replace(spec, shape=spec.shape[1:], strides=strides, chunks=chunks)


@dataclass(frozen=True, slots=True)
class RowsOfStream:
    """A stream: of each `period` bytes of another, which has whole ones, some from `start` on.

    All of the other is read, so that what is wrong at its end does not go by unseen.
    """

    whole: Stream
    period: int
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """See `Stream`."""
        return self.whole.nbytes // self.period * (self.stop - self.start)

    def pieces(self, max_bytes: int) -> Iterator[memoryview]:
        """See `Stream`."""
        buffer = np.empty(min(max_bytes, self.nbytes), np.uint8)
        filled = 0
        for kept in self._kept():
            rest = kept
            while len(rest):
                if filled == len(buffer):
                    yield buffer.data
                    filled = 0
                taken = min(len(rest), len(buffer) - filled)
                buffer[filled : filled + taken] = rest[:taken]
                filled += taken
                rest = rest[taken:]
        if filled:
            yield buffer[:filled].data

    def _kept(self) -> Iterator[Bytes]:
        if self.period <= _READ_NBYTES:
            for piece in self.whole.pieces(_READ_NBYTES // self.period * self.period):
                periods = np.frombuffer(piece, np.uint8).reshape(-1, self.period)
                yield periods[:, self.start : self.stop].reshape(-1)
            return
        at = 0  # of the next byte in its period
        for piece in self.whole.pieces(_READ_NBYTES):
            raw = np.frombuffer(piece, np.uint8)
            while len(raw):
                count = min(len(raw), self.period - at)
                yield raw[max(self.start - at, 0) : max(min(self.stop - at, count), 0)]
                at, raw = (at + count) % self.period, raw[count:]
