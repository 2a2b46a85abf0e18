"""Elements of stored parts, read in C order of a box or as they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np

from gradtool.core.dtypes import DTYPES
from gradtool.core.locations import Extent, Location, Source
from gradtool.core.shapes.boxes import Box
from gradtool.core.shapes.strides import contiguous_strides
from gradtool.core.tensors import TensorSpec
from gradtool.engine.backend import Bytes
from gradtool.engine.buffers import BUFFERS
from gradtool.storage.elements.strided import WORDS, fill
from gradtool.storage.spool import spooled


class Sources:
    """Locations opened once for a task, and checked at its end; a context manager."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._sources: dict[Location, Source] = {}
        self._last: tuple[Location, Source] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._open:
            for source in self._sources.values() if error is None else ():
                source.check_unchanged()

    def read_into(self, extents: Sequence[Extent], offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `offset` of extents that follow each other."""
        for extent in extents:
            if offset < extent.nbytes:
                piece, buffer = buffer[: extent.nbytes - offset], buffer[extent.nbytes - offset :]
                self._source(extent.file).read_into(extent.offset + offset, piece)
            if not buffer:
                return
            offset = max(offset - extent.nbytes, 0)

    def _source(self, file: Location) -> Source:
        if self._last is not None and self._last[0] is file:
            return self._last[1]
        source = self._sources.get(file)
        if source is None:
            source = self._sources[file] = self._open.enter_context(file.open())
        self._last = (file, source)
        return source


def read_range(sources: Sources, spec: TensorSpec, first: int, out: Bytes) -> None:
    """Fill `out` with the elements from the one that is `first` as they are stored."""
    sources.read_into(spec.extents, first * spec.dtype.itemsize, out.data)
    normalize(out, spec)


def read_box(sources: Sources, spec: TensorSpec, box: Box, out: Bytes) -> None:
    """Fill `out` with the elements of a box of the shape of `spec`, in C order."""
    strides = contiguous_strides(spec.shape) if spec.strides is None else spec.strides
    words = out.view(WORDS[spec.dtype.itemsize]).reshape(box.sizes)
    read_into = partial(sources.read_into, spec.extents)
    fill(read_into, first_element(spec, box), strides, words, _near)
    normalize(out, spec)


def first_element(spec: TensorSpec, box: Box) -> int:
    """Where in its storage the first element of a box of `spec` is, counted in elements."""
    if not any(box.offsets):
        return 0
    strides = contiguous_strides(spec.shape) if spec.strides is None else spec.strides
    return sum(offset * stride for offset, stride in zip(box.offsets, strides, strict=True))


def normalize(raw: Bytes, spec: TensorSpec) -> None:
    """Make stored bytes those of little-endian elements of the tensor."""
    if not (spec.big_endian or spec.is_negated):
        return
    part = DTYPES[spec.dtype.component] if spec.dtype.component else spec.dtype
    words = raw.view(f"u{part.itemsize}")
    if spec.big_endian:
        words.byteswap(inplace=True)
    if spec.is_negated:
        words ^= words.dtype.type(1 << part.bits - 1)


def _near(nbytes: int) -> Bytes:
    return BUFFERS.span.array(np.uint8, nbytes)


def without_streams(spec: TensorSpec, files: ExitStack) -> TensorSpec:
    """The tensor with the streams among its parts in temporary files, until `files` is closed."""
    if spec.chunks:
        return replace(
            spec,
            chunks=tuple(
                replace(chunk, stored=without_streams(chunk.stored, files)) for chunk in spec.chunks
            ),
        )
    if spec.stream is None or not spec.stream.nbytes:
        return spec
    return replace(spec, stream=None, extents=(files.enter_context(spooled(spec.stream)),))
