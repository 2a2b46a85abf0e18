"""How to rewrite a file in place of the old one: which bytes change, in which pieces.

The pieces of all tasks together are the file, each byte once: ranges whose elements all get
the same transform, windows over views, and what lies between, which is copied.
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

MOST_SEGMENTS: Final = 1000
"""Pieces of one task: a system call takes 1,024 buffers."""

NO_CHECKSUM: Final = -1

_BEYOND: Final = 1 << 63


class Change(NamedTuple):
    """What becomes of elements of one type."""

    dtype: DType
    big_endian: bool
    transform: Transform


@dataclass(frozen=True, slots=True)
class Region:
    """A byte range of which every element changes alike or, with `views`, some elements do.

    `views` has the members whose elements change, and `transforms` what becomes of each.
    """

    offset: int
    nbytes: int
    change: Change
    views: GroupTask | None = None
    transforms: tuple[Transform, ...] = ()

    @property
    def end(self) -> int:
        """The byte after the last one."""
        return self.offset + self.nbytes


class Segment(NamedTuple):
    """`nbytes` bytes at `offset`: copied, or changed as `region` says; under which checksum."""

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

    `specs` are all tensors of the checkpoint, of which the overlaps are known, and `transforms`
    those of the ones that change, by name. Raises
    UsageError where two names of one stored element would give it two transforms.
    """
    linked = [_distinct(specs, group, transforms) for group in overlaps.among(specs)]
    together = {index for group in linked for index in group.members}
    found: dict[Location, list[Region]] = {}
    for index, spec in enumerate(specs):
        transform = transforms.get(spec.name, IDENTITY)
        if index in together or transform == IDENTITY:
            continue
        for region in _regions_of(specs, [index], transforms):
            found.setdefault(region[0], []).append(region[1])
    for group in linked:
        refuse_conflicts(specs, group.different, transforms)
        changed = [i for i in group.different if specs[i].name in transforms]
        for region in _regions_of(specs, changed, transforms):
            found.setdefault(region[0], []).append(region[1])
    for regions in found.values():
        regions.sort(key=attrgetter("offset"))
    return {file: _merged(regions) for file, regions in found.items()}


class _Group(NamedTuple):
    """Tensors whose bytes overlap; `different` has one for each set of elements and transform."""

    members: list[int]
    different: list[int]


def _distinct(
    specs: Sequence[TensorSpec], group: list[int], transforms: Mapping[str, Transform]
) -> _Group:
    first_with: dict[object, int] = {}
    for index in group:
        transform = transforms.get(specs[index].name, IDENTITY)
        first_with.setdefault((specs[index].elements, transform), index)
    return _Group(group, list(first_with.values()))


def _regions_of(
    specs: Sequence[TensorSpec], changed: Sequence[int], transforms: Mapping[str, Transform]
) -> Iterator[tuple[Location, Region]]:
    """The regions of tensors that are alone or overlap each other."""
    if not changed:
        return
    spec = specs[changed[0]]
    change = Change(spec.dtype, spec.big_endian, transforms[spec.name])
    if len(changed) == 1 and spec.is_gapless:
        for extent in spec.extents:
            yield extent.file, Region(extent.offset, extent.nbytes, change)
        return
    for task in group_tasks(specs, changed):
        wanted = tuple(transforms[specs[member.target].name] for member in task.members)
        yield task.file, Region(task.offset, task.nbytes, change, task, wanted)


def _merged(regions: Iterable[Region]) -> list[Region]:
    """The same regions, joined where one goes on as the other does."""
    found: list[Region] = []
    for region in regions:
        last = found[-1] if found else None
        if (
            last is not None
            and last.end == region.offset
            and last.change == region.change
            and last.views is region.views is None
        ):
            found[-1] = Region(last.offset, last.nbytes + region.nbytes, last.change)
        else:
            found.append(region)
    return found


def renewed_checksums(
    checksums: Iterable[StoredChecksum], regions: Sequence[Region]
) -> list[StoredChecksum]:
    """Those of `checksums`, of one file and ascending, that are over bytes that change."""
    starts = [region.offset for region in regions]
    ends = [region.end for region in regions]

    def changes(covers: Extent) -> bool:
        return bisect_left(starts, covers.end) > bisect_left(ends, covers.offset + 1)

    return [checksum for checksum in checksums if changes(checksum.covers)]


def patch_tasks(
    file: Location, regions: Sequence[Region], checksums: Sequence[StoredChecksum]
) -> Iterator[PatchTask]:
    """Every task that makes a file of the same size of `file`."""
    task = PatchTask(file)
    for segment in _segments(file.size, regions, checksums):
        full = task.nbytes + segment.nbytes > TASK_BYTES or len(task.segments) == MOST_SEGMENTS
        if full and task.segments:
            yield task
            task = PatchTask(file)
        task.segments.append(segment)
        task.nbytes += segment.nbytes
    if task.segments:
        yield task


def _segments(
    size: int, regions: Sequence[Region], checksums: Sequence[StoredChecksum]
) -> Iterator[Segment]:
    """The whole file: no segment is longer than a task or crosses a checksum's border.

    No region does: what lies between two records is not theirs.
    """
    checksum_at = _Checksums(checksums)
    at = 0
    for region in regions:
        yield from _copied(at, region.offset, checksum_at)
        step = TASK_BYTES - TASK_BYTES % region.change.dtype.itemsize
        for start in range(region.offset, region.end, step):
            nbytes = min(step, region.end - start)
            yield Segment(start, nbytes, checksum_at(start)[0], region)
        at = region.end
    yield from _copied(at, size, checksum_at)


def _copied(start: int, end: int, checksum_at: _Checksums) -> Iterator[Segment]:
    while start < end:
        checksum, limit = checksum_at(start)
        nbytes = min(limit, end, start + TASK_BYTES) - start
        yield Segment(start, nbytes, checksum)
        start += nbytes


class _Checksums:
    """Which of several checksums covers a byte, for bytes in ascending order."""

    def __init__(self, checksums: Sequence[StoredChecksum]) -> None:
        self._covers = [checksum.covers for checksum in checksums]
        self._next = 0

    def __call__(self, offset: int) -> tuple[int, int]:
        """The checksum's position, or NO_CHECKSUM, and where that ends to be so."""
        while self._next < len(self._covers) and self._covers[self._next].end <= offset:
            self._next += 1
        if self._next == len(self._covers):
            return NO_CHECKSUM, _BEYOND
        covers = self._covers[self._next]
        return (self._next, covers.end) if covers.offset <= offset else (NO_CHECKSUM, covers.offset)
