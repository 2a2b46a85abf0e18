"""What an executor runs to rewrite a file: one task in, its bytes written, CRCs out."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gradtool.core.clipping import Units
from gradtool.engine.backend import Backend, Bytes, Coefs
from gradtool.engine.overlaps.groups import named_elements, window_bounds
from gradtool.engine.writing.patch_plan import NO_CHECKSUM, Change, PatchTask, Region, Segment
from gradtool.engine.writing.units import coefs_at, coefs_in_order
from gradtool.storage.sink import Sink

_ALIGNMENT = 64


class ChecksumPart(NamedTuple):
    """Consecutive bytes under a checksum: their CRC-32 before the rewrite and after it.

    `checksum` is the checksum's position among those of the file.
    """

    checksum: int
    nbytes: int
    old: int
    new: int


def run_patch(task: PatchTask, sink: Sink, backend: Backend) -> list[ChecksumPart]:
    """Write the task's part of the new file; the CRCs of its bytes under checksums."""
    start = task.segments[0].offset
    buffers, changing = _buffers(task.segments, backend)
    with task.file.open() as source:
        source.read_vector(start, buffers)
        source.check_unchanged()
    old = _crcs(task.segments, buffers)
    for work, raw in changing.items():
        _transform_all(raw, work, backend)
    for segment, buffer in zip(task.segments, buffers, strict=True):
        if segment.region is not None and segment.region.views is not None:
            _transform_views(np.frombuffer(buffer, np.uint8), segment.region, backend)
    new = _crcs(task.segments, buffers)
    sink.write_vector(start, buffers)
    return [
        ChecksumPart(checksum, nbytes, before, after)
        for (checksum, nbytes, before), (_, _, after) in zip(old, new, strict=True)
    ]


class _Work(NamedTuple):
    """What is changed together: all with one change, or a segment whose units have own factors."""

    change: Change
    segment: Segment | None = None


def _buffers(
    segments: Sequence[Segment], backend: Backend
) -> tuple[list[memoryview], dict[_Work, Bytes]]:
    """A buffer for each segment, and those of all that are changed together as one array."""
    works = [_work(segment) for segment in segments]
    sizes: dict[_Work | None, int] = {}
    for work, segment in zip(works, segments, strict=True):
        sizes[work] = sizes.get(work, 0) + segment.nbytes
    starts, total = {}, 0
    for work, nbytes in sizes.items():
        starts[work] = total
        total += nbytes + -nbytes % _ALIGNMENT
    whole = backend.buffer(total)
    changing = {
        work: whole[start : start + sizes[work]]
        for work, start in starts.items()
        if work is not None
    }
    buffers = []
    for work, segment in zip(works, segments, strict=True):
        start = starts[work]
        buffers.append(whole.data[start : start + segment.nbytes])
        starts[work] = start + segment.nbytes
    return buffers, changing


def _work(segment: Segment) -> _Work | None:
    """What a segment is changed by; None if it is copied, or changes in part."""
    region = segment.region
    if region is None or region.views is not None:
        return None
    return _Work(region.change, None if region.change.transform.units is None else segment)


def _crcs(segments: Sequence[Segment], buffers: Sequence[memoryview]) -> list[tuple[int, int, int]]:
    """(checksum, bytes, CRC-32) of the segments under each checksum, in order."""
    crcs: list[tuple[int, int, int]] = []
    for segment, buffer in zip(segments, buffers, strict=True):
        if segment.checksum == NO_CHECKSUM:
            continue
        if crcs and crcs[-1][0] == segment.checksum:
            checksum, nbytes, crc32 = crcs[-1]
            crcs[-1] = (checksum, nbytes + len(buffer), zlib.crc32(buffer, crc32))
        else:
            crcs.append((segment.checksum, len(buffer), zlib.crc32(buffer)))
    return crcs


def _transform_all(raw: Bytes, work: _Work, backend: Backend) -> None:
    dtype, big_endian, transform = work.change
    step = backend.limits.block_numel * dtype.itemsize
    for start in range(0, len(raw), step):
        block = raw[start : start + step]
        coefs = None
        if transform.units is not None and work.segment is not None:
            coefs = _coefs_of(work.segment, transform.units, start, len(block))
        backend.apply(block, dtype, transform, big_endian=big_endian, coefs=coefs)


def _coefs_of(segment: Segment, units: Units, start: int, nbytes: int) -> Coefs | None:
    """The factor of each element in `nbytes` bytes from byte `start` of a segment."""
    region = segment.region
    if region is None:
        return None
    itemsize = region.change.dtype.itemsize
    first = region.first + (segment.offset - region.offset + start) // itemsize
    return coefs_in_order(units, region.layout, first, nbytes // itemsize)


def _transform_views(raw: Bytes, region: Region, backend: Backend) -> None:
    """Transform the elements that the region's members name, each of them once."""
    if region.views is None:
        return
    dtype, big_endian, _ = region.change
    rows = raw.reshape(-1, dtype.itemsize)
    for start, stop in window_bounds(region.views.count):
        window = rows[start:stop]
        done = np.zeros(stop - start, dtype=bool)
        for named in named_elements(region.views.members, start, stop):
            is_fresh = ~done[named.offsets]
            fresh = named.offsets[is_fresh]
            done[fresh] = True
            elements = window[fresh]
            transform, coefs = region.transforms[named.member], None
            if transform.units is not None:
                coefs = coefs_at(transform.units, named.positions[is_fresh])
            raw_elements = elements.reshape(-1)
            backend.apply(raw_elements, dtype, transform, big_endian=big_endian, coefs=coefs)
            window[fresh] = elements
