"""Elements of stored parts, read in C order of a box or as they are stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from gradtool.core.dtypes import DTYPES
from gradtool.core.locations import Extent, Location, Source
from gradtool.core.shapes.boxes import Box
from gradtool.core.shapes.strides import contiguous_strides, distinct_axes, is_contiguous, span
from gradtool.core.tensors import TensorSpec
from gradtool.engine.backend import Bytes
from gradtool.engine.buffers import BUFFERS
from gradtool.storage.spool import spooled

MOST_SPAN: Final = 4 << 20
"""Bytes that are read at once to pick elements from."""

READ_NBYTES: Final = 16 << 10
"""Bytes that are read over in the time that another read takes to begin."""

_WORDS: Final = {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "c16"}
"""NumPy's types that elements of a size are copied as."""


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
    words = out.view(_WORDS[spec.dtype.itemsize]).reshape(box.sizes)
    _fill(sources, spec.extents, first_element(spec, box), strides, words)
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


def _fill(
    sources: Sources,
    extents: Sequence[Extent],
    first: int,
    strides: Sequence[int],
    out: NDArray[Any],
) -> None:
    """Fill `out` with the elements of its shape from the `first` on, which are `strides` apart."""
    itemsize, sizes = out.itemsize, out.shape
    if out.flags.c_contiguous and is_contiguous(sizes, strides):
        sources.read_into(extents, first * itemsize, out.reshape(-1).view(np.uint8).data)
        return
    axes, reach = distinct_axes(sizes, strides), span(sizes, strides)
    if not axes or _is_near(axes, reach, itemsize):
        near = BUFFERS.span.array(np.uint8, reach * itemsize)
        sources.read_into(extents, first * itemsize, near.data)
        steps = tuple(stride * itemsize for stride in strides)
        out[...] = np.ndarray(sizes, out.dtype, near.data, strides=steps)
        return
    stride, size = axes[0]
    axis = list(zip(strides, sizes, strict=True)).index(axes[0])
    inner = reach - (size - 1) * stride
    together = 1
    if reach * itemsize > MOST_SPAN and (stride - inner) * itemsize <= READ_NBYTES:
        together = max((MOST_SPAN // itemsize - inner) // stride + 1, 1)
    for start in range(0, size, together):
        part = out[(slice(None),) * axis + (slice(start, start + together),)]
        _fill(sources, extents, first + start * stride, strides, part)


def _is_near(axes: Sequence[tuple[int, int]], reach: int, itemsize: int) -> bool:
    """Whether one read over all that lies between elements is cheaper than several reads."""
    wasted = reach - math.prod(size for _, size in axes)
    return reach * itemsize <= MOST_SPAN and wasted * itemsize <= axes[0][1] * READ_NBYTES


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
