"""What an executor runs to rewrite a file: one task in, its bytes written, checksums out."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gradtool.engine.backend import Backend, Bytes
from gradtool.engine.overlaps.groups import named_between, window_bounds
from gradtool.engine.writing.patch_plan import NO_CHECKSUM, Change, PatchTask, Region, Segment
from gradtool.storage.sink import Sink

_ALIGNMENT = 64


class ChecksumPart(NamedTuple):
    """The CRC-32 of `nbytes` bytes under a checksum, as they were and as they are."""

    checksum: int
    nbytes: int
    old: int
    new: int


def run_patch(task: PatchTask, sink: Sink, backend: Backend) -> list[ChecksumPart]:
    """Write the task's part of the new file; the checksums of what lies under checksums."""
    start = task.segments[0].offset
    buffers, alike = _placed(task.segments, backend)
    with task.file.open() as source:
        source.read_vector(start, buffers)
        source.check_unchanged()
    old = _checksums(task.segments, buffers)
    for change, raw in alike.items():
        _transform_all(raw, change, backend)
    for segment, buffer in zip(task.segments, buffers, strict=True):
        if segment.region is not None and segment.region.views is not None:
            _transform_views(np.frombuffer(buffer, np.uint8), segment.region, backend)
    new = _checksums(task.segments, buffers)
    sink.write_vector(start, buffers)
    return [
        ChecksumPart(checksum, nbytes, before, after)
        for (checksum, nbytes, before), (_, _, after) in zip(old, new, strict=True)
    ]


def _placed(
    segments: Sequence[Segment], backend: Backend
) -> tuple[list[memoryview], dict[Change, Bytes]]:
    """Room for each segment; and the rooms of all that changes alike, one after another."""
    sizes: dict[Change | None, int] = {}
    for segment in segments:
        key = _change(segment)
        sizes[key] = sizes.get(key, 0) + segment.nbytes
    starts, total = {}, 0
    for key, nbytes in sizes.items():
        starts[key] = total
        total += nbytes + -nbytes % _ALIGNMENT
    buffer = backend.buffer(total)
    alike = {key: buffer[at : at + sizes[key]] for key, at in starts.items() if key is not None}
    buffers = []
    for segment in segments:
        key = _change(segment)
        at = starts[key]
        buffers.append(buffer.data[at : at + segment.nbytes])
        starts[key] = at + segment.nbytes
    return buffers, alike


def _change(segment: Segment) -> Change | None:
    """What becomes of all of its elements; None for what is copied, or changes in part."""
    region = segment.region
    return None if region is None or region.views is not None else region.change


def _checksums(
    segments: Sequence[Segment], buffers: Sequence[memoryview]
) -> list[tuple[int, int, int]]:
    """(checksum, bytes, CRC-32) of what lies under each checksum, in order."""
    found: list[tuple[int, int, int]] = []
    for segment, buffer in zip(segments, buffers, strict=True):
        if segment.checksum == NO_CHECKSUM:
            continue
        if found and found[-1][0] == segment.checksum:
            checksum, nbytes, crc32 = found[-1]
            found[-1] = (checksum, nbytes + len(buffer), zlib.crc32(buffer, crc32))
        else:
            found.append((segment.checksum, len(buffer), zlib.crc32(buffer)))
    return found


def _transform_all(raw: Bytes, change: Change, backend: Backend) -> None:
    step = backend.limits.block_numel * change.dtype.itemsize
    for start in range(0, len(raw), step):
        block = raw[start : start + step]
        backend.apply(block, change.dtype, change.transform, big_endian=change.big_endian)


def _transform_views(raw: Bytes, region: Region, backend: Backend) -> None:
    """Change the elements that members of a group name, each of them once."""
    if region.views is None:
        return
    dtype, big_endian, _ = region.change
    rows = raw.reshape(-1, dtype.itemsize)
    for start, stop in window_bounds(region.views.count):
        window = rows[start:stop]
        done = np.zeros(stop - start, dtype=bool)
        for named in named_between(region.views.members, start, stop):
            fresh = named.at[~done[named.at]]
            done[fresh] = True
            elements = window[fresh]
            transform = region.transforms[named.member]
            backend.apply(elements.reshape(-1), dtype, transform, big_endian=big_endian)
            window[fresh] = elements
