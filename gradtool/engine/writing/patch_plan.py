"""How a file is rewritten at the same size: which bytes change, in which tasks.

The segments of all tasks together are the file, each byte once: ranges whose elements all get
the same transform, ranges that views name in part, and the bytes between, which are copied.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final, NamedTuple

from gradtool.core.clipping import IDENTITY, Transform
from gradtool.core.dtypes import DType
from gradtool.core.locations import Extent, Location
from gradtool.core.tensors import StoredChecksum, TensorSpec
from gradtool.engine.backend import TASK_BYTES
from gradtool.engine.overlaps.conflicts import refuse_conflicts
from gradtool.engine.overlaps.groups import GroupTask, group_tasks
from gradtool.engine.overlaps.sharing import Overlaps
from gradtool.engine.overlaps.views import Layout

MOST_SEGMENTS: Final = 1000
"""Segments of one task: a system call takes 1,024 buffers."""

NO_CHECKSUM: Final = -1

_BEYOND: Final = 1 << 63


class Change(NamedTuple):
    """The transform of elements, with their type and byte order."""

    dtype: DType
    big_endian: bool
    transform: Transform


@dataclass(frozen=True, slots=True)
class Region:
    """A byte range in which all elements change alike or, with `views`, some elements change.

    `views` has the members whose elements change, and `transforms` the transform of each. Where
    units have factors of their own, `first` is the position of the first element as the tensor is
    stored, and `layout` its layout if that is not C order.
    """

    offset: int
    nbytes: int
    change: Change
    views: GroupTask | None = None
    transforms: tuple[Transform, ...] = ()
    first: int = 0
    layout: Layout | None = None

    @property
    def end(self) -> int:
        """The byte after the last one."""
        return self.offset + self.nbytes


class Segment(NamedTuple):
    """`nbytes` bytes at `offset`: copied, or changed as `region` says.

    `checksum` is the position of the checksum over them, or NO_CHECKSUM.
    """

    offset: int
    nbytes: int
    checksum: int
    region: Region | None = None


@dataclass(slots=True)
class PatchTask:
    """Consecutive segments of `file`, to be written at the same offsets of a new one."""

    file: Location
    segments: list[Segment] = field(default_factory=list)
    nbytes: int = 0


def changed_regions(
    specs: Sequence[TensorSpec], transforms: Mapping[str, Transform], overlaps: Overlaps
) -> dict[Location, list[Region]]:
    """The regions that change, by file and in ascending order.

    `specs` and `overlaps` are those of the whole checkpoint, `transforms` has those of the tensors
    that change, by name. Raises UsageError where two tensors with different transforms name the
    same element.
    """
    linked = [_distinct(specs, group, transforms) for group in overlaps.among(specs)]
    together = {index for group in linked for index in group.members}
    regions_of: dict[Location, list[Region]] = {}
    for index, spec in enumerate(specs):
        transform = transforms.get(spec.name, IDENTITY)
        if index in together or transform == IDENTITY:
            continue
        for file, region in _regions(specs, [index], transforms):
            regions_of.setdefault(file, []).append(region)
    for group in linked:
        refuse_conflicts(specs, group.different, transforms)
        changed = [i for i in group.different if specs[i].name in transforms]
        for file, region in _regions(specs, changed, transforms):
            regions_of.setdefault(file, []).append(region)
    for regions in regions_of.values():
        regions.sort(key=attrgetter("offset"))
    return {file: _joined(regions) for file, regions in regions_of.items()}


class _Linked(NamedTuple):
    """Tensors whose bytes overlap; `different` has one for each set of elements and transform."""

    members: list[int]
    different: list[int]


def _distinct(
    specs: Sequence[TensorSpec], group: list[int], transforms: Mapping[str, Transform]
) -> _Linked:
    first_with: dict[object, int] = {}
    for index in group:
        transform = transforms.get(specs[index].name, IDENTITY)
        first_with.setdefault((specs[index].elements, transform), index)
    return _Linked(group, list(first_with.values()))


def _regions(
    specs: Sequence[TensorSpec], changed: Sequence[int], transforms: Mapping[str, Transform]
) -> Iterator[tuple[Location, Region]]:
    """The regions of one tensor, or of tensors that overlap each other, each with its file."""
    if not changed:
        return
    spec = specs[changed[0]]
    change = Change(spec.dtype, spec.big_endian, transforms[spec.name])
    if len(changed) == 1 and spec.is_gapless:
        first, layout = 0, None if spec.strides is None else Layout(spec.shape, spec.strides)
        for extent in spec.extents:
            region = Region(extent.offset, extent.nbytes, change, first=first, layout=layout)
            yield extent.file, region
            first += extent.nbytes // spec.dtype.itemsize
        return
    for task in group_tasks(specs, changed):
        of_members = tuple(transforms[specs[member.target].name] for member in task.members)
        yield task.file, Region(task.offset, task.nbytes, change, task, of_members)


def _joined(regions: Iterable[Region]) -> list[Region]:
    """The same regions; adjacent ones with the same change are one."""
    joined: list[Region] = []
    for region in regions:
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.end == region.offset
            and last.change == region.change
            and last.views is region.views is None
            and region.change.transform.units is None
        ):
            joined[-1] = Region(last.offset, last.nbytes + region.nbytes, last.change)
        else:
            joined.append(region)
    return joined


def renewed_checksums(
    checksums: Iterable[StoredChecksum], regions: Sequence[Region]
) -> list[StoredChecksum]:
    """The checksums over bytes that change, given all those of one file in ascending order."""
    starts = [region.offset for region in regions]
    ends = [region.end for region in regions]

    def changes(covers: Extent) -> bool:
        return bisect_left(starts, covers.end) > bisect_left(ends, covers.offset + 1)

    return [checksum for checksum in checksums if changes(checksum.covers)]


def patch_tasks(
    file: Location, regions: Sequence[Region], checksums: Sequence[StoredChecksum]
) -> Iterator[PatchTask]:
    """All tasks that write the new version of `file`, which has the same size."""
    task = PatchTask(file)
    for segment in _segments(file.size, regions, checksums):
        is_full = task.nbytes + segment.nbytes > TASK_BYTES or len(task.segments) == MOST_SEGMENTS
        if is_full and task.segments:
            yield task
            task = PatchTask(file)
        task.segments.append(segment)
        task.nbytes += segment.nbytes
    if task.segments:
        yield task


def _segments(
    size: int, regions: Sequence[Region], checksums: Sequence[StoredChecksum]
) -> Iterator[Segment]:
    """The segments of the whole file, none longer than a task or across a checksum's border.

    No region crosses such a border: the bytes between two records belong to no tensor.
    """
    checksum_at = _Checksums(checksums)
    copied_from = 0
    for region in regions:
        yield from _copied(copied_from, region.offset, checksum_at)
        step = TASK_BYTES - TASK_BYTES % region.change.dtype.itemsize
        for start in range(region.offset, region.end, step):
            nbytes = min(step, region.end - start)
            yield Segment(start, nbytes, checksum_at(start)[0], region)
        copied_from = region.end
    yield from _copied(copied_from, size, checksum_at)


def _copied(start: int, end: int, checksum_at: _Checksums) -> Iterator[Segment]:
    while start < end:
        checksum, limit = checksum_at(start)
        nbytes = min(limit, end, start + TASK_BYTES) - start
        yield Segment(start, nbytes, checksum)
        start += nbytes


class _Checksums:
    """Finds the checksum over a byte, for bytes in ascending order."""

    def __init__(self, checksums: Sequence[StoredChecksum]) -> None:
        self._covers = [checksum.covers for checksum in checksums]
        self._next = 0

    def __call__(self, offset: int) -> tuple[int, int]:
        """The position of the checksum over byte `offset`, or NO_CHECKSUM, and where that ends."""
        while self._next < len(self._covers) and self._covers[self._next].end <= offset:
            self._next += 1
        if self._next == len(self._covers):
            return NO_CHECKSUM, _BEYOND
        covers = self._covers[self._next]
        return (self._next, covers.end) if covers.offset <= offset else (NO_CHECKSUM, covers.offset)
