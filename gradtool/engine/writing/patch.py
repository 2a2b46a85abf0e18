"""What an executor runs to rewrite a file: one task in, its bytes written, CRCs out."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gradtool.engine.backend import Backend, Bytes
from gradtool.engine.overlaps.groups import named_elements, window_bounds
from gradtool.engine.writing.patch_plan import NO_CHECKSUM, Change, PatchTask, Region, Segment
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
    for change, raw in changing.items():
        _transform_all(raw, change, backend)
    for segment, buffer in zip(task.segments, buffers, strict=True):
        if segment.region is not None and segment.region.views is not None:
            _transform_views(np.frombuffer(buffer, np.uint8), segment.region, backend)
    new = _crcs(task.segments, buffers)
    sink.write_vector(start, buffers)
    return [
        ChecksumPart(checksum, nbytes, before, after)
        for (checksum, nbytes, before), (_, _, after) in zip(old, new, strict=True)
    ]


def _buffers(
    segments: Sequence[Segment], backend: Backend
) -> tuple[list[memoryview], dict[Change, Bytes]]:
    """A buffer for each segment, and those of all segments with the same change as one array."""
    sizes: dict[Change | None, int] = {}
    for segment in segments:
        change = _change(segment)
        sizes[change] = sizes.get(change, 0) + segment.nbytes
    starts, total = {}, 0
    for change, nbytes in sizes.items():
        starts[change] = total
        total += nbytes + -nbytes % _ALIGNMENT
    whole = backend.buffer(total)
    changing = {
        change: whole[start : start + sizes[change]]
        for change, start in starts.items()
        if change is not None
    }
    buffers = []
    for segment in segments:
        change = _change(segment)
        start = starts[change]
        buffers.append(whole.data[start : start + segment.nbytes])
        starts[change] = start + segment.nbytes
    return buffers, changing


def _change(segment: Segment) -> Change | None:
    """The change of all elements of a segment; None if it is copied, or changes in part."""
    region = segment.region
    return None if region is None or region.views is not None else region.change


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


def _transform_all(raw: Bytes, change: Change, backend: Backend) -> None:
    step = backend.limits.block_numel * change.dtype.itemsize
    for start in range(0, len(raw), step):
        block = raw[start : start + step]
        backend.apply(block, change.dtype, change.transform, big_endian=change.big_endian)


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
            fresh = named.offsets[~done[named.offsets]]
            done[fresh] = True
            elements = window[fresh]
            transform = region.transforms[named.member]
            backend.apply(elements.reshape(-1), dtype, transform, big_endian=big_endian)
            window[fresh] = elements
