"""Overlap groups: tensors that share stored elements, walked together in bounded windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gradtool.core.dtypes import DType
from gradtool.core.locations import Location
from gradtool.core.shapes.strides import contiguous_strides
from gradtool.core.tensors import Scale, TensorSpec
from gradtool.engine.backend import BLOCK_ELEMENTS, TASK_BYTES
from gradtool.engine.overlaps.views import Int64, Layout


@dataclass(frozen=True, slots=True)
class Member:
    """A tensor of a group, as one task sees it.

    Attributes:
        target: the tensor's position in the plan.
        scopes: where it counts the elements that no member before it names: 0 is the total,
            each other number a section.
        first: its first element, counted from the first one of the task.
        layout: its shape and strides.
        span: elements of storage from its first to its last.
        scale: what its elements are to be multiplied by; it is in C order if there is one.
    """

    target: int
    scopes: tuple[int, ...]
    first: int
    layout: Layout
    span: int
    scale: Scale | None = None


@dataclass(frozen=True, slots=True)
class GroupTask:
    """A range of `count` elements from byte `offset` of a file, and the members that name some."""

    file: Location
    dtype: DType
    big_endian: bool
    offset: int
    count: int
    members: tuple[Member, ...]
    nbytes: int


def group_tasks(specs: Sequence[TensorSpec], group: Sequence[int]) -> Iterator[GroupTask]:
    """Tasks over consecutive parts of a group's range, each with the members that reach into it."""
    extents = [specs[index].extents[0] for index in group]
    dtype = specs[group[0]].dtype
    start, end = min(e.offset for e in extents), max(e.end for e in extents)
    sections = {name: i for i, name in enumerate({specs[i].section: None for i in group}, 1)}
    waiting = sorted(group, key=lambda index: -specs[index].extents[0].offset)
    active: list[int] = []
    for offset in range(start, end, TASK_BYTES):
        stop = min(offset + TASK_BYTES, end)
        while waiting and specs[waiting[-1]].extents[0].offset < stop:
            active.append(waiting.pop())
        active = sorted(index for index in active if specs[index].extents[0].end > offset)
        members = tuple(
            _member(index, specs[index], offset, sections if len(sections) > 1 else {})
            for index in active
        )
        count = (stop - offset) // dtype.itemsize
        big_endian = specs[group[0]].big_endian
        yield GroupTask(extents[0].file, dtype, big_endian, offset, count, members, stop - offset)


def _member(index: int, spec: TensorSpec, offset: int, sections: dict[str, int]) -> Member:
    (extent,) = spec.extents
    itemsize = spec.dtype.itemsize
    return Member(
        target=index,
        scopes=(0, sections[spec.section]) if sections else (0,),
        first=(extent.offset - offset) // itemsize,
        layout=Layout(spec.shape, spec.strides or contiguous_strides(spec.shape)),
        span=extent.nbytes // itemsize,
        scale=spec.scale,
    )


class NamedElements(NamedTuple):
    """The elements of a window that one member names.

    `member` is its position among the members, `offsets` are those of the elements from the
    window's first one, ascending, and `positions` their C-order positions in the member.
    """

    member: int
    offsets: Int64
    positions: Int64


def window_bounds(count: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of each window over `count` elements."""
    for start in range(0, count, BLOCK_ELEMENTS):
        yield start, min(start + BLOCK_ELEMENTS, count)


def named_elements(members: Sequence[Member], start: int, stop: int) -> Iterator[NamedElements]:
    """The elements that each member names in the window from `start` to `stop`, if any."""
    for index, member in enumerate(members):
        if member.first >= stop or member.first + member.span <= start:
            continue
        low = start - member.first
        offsets, positions = member.layout.between(low, stop - member.first)
        if len(offsets):
            yield NamedElements(index, offsets - low, positions)
