"""Tensors put together from the boxes that several files hold of them."""

from __future__ import annotations

import operator
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.locations import Extent
from gradtool.core.shapes.boxes import Box, Held, covering_problem
from gradtool.core.shapes.strides import contiguous_strides, is_contiguous, span
from gradtool.core.tensors import ABSENT, Chunk, Placed, Replica, Skipped, TensorSpec
from gradtool.errors import CorruptFileError, UnsupportedFormatError


class Part(NamedTuple):
    """What one file holds of a tensor: a box, and how users call who holds it.

    `whole` is the tensor's shape, None where the file does not say it.
    """

    chunk: Chunk
    whole: tuple[int, ...] | None
    holder: str


@dataclass(frozen=True, slots=True)
class Gathered:
    """Whole tensors, and copies of boxes of them that several files hold."""

    tensors: tuple[TensorSpec, ...]
    replicas: tuple[Replica, ...]


def parts_of(catalogue: Checkpoint, holder: str) -> Iterator[Part]:
    """The parts in a file that says which boxes it holds, or that holds whole tensors.

    Raises UnsupportedFormatError for summands, of which no part of the whole tensor is known.
    """
    for spec in catalogue.tensors:
        placed = catalogue.placed.get(spec.name)
        yield from parts_of_tensor(spec, placed, catalogue.path, holder)


def parts_of_tensor(
    spec: TensorSpec, placed: Placed | None, path: str, holder: str
) -> Iterator[Part]:
    """The parts of one tensor of a file: all of it, or the boxes where it is placed."""
    if placed is None:
        yield Part(Chunk(Box((0,) * len(spec.shape), spec.shape), spec), spec.shape, holder)
        return
    if placed.is_partial:
        problem = "is a summand of what the ranks hold together: save its full_tensor()"
        raise UnsupportedFormatError(path, problem, tensor=spec.name)
    for held in placed.held:
        yield Part(Chunk(held.box, _view(spec, held)), placed.whole, holder)


def _view(spec: TensorSpec, held: Held) -> TensorSpec:
    """The elements of a box among those that a file holds of a tensor."""
    sizes = held.box.sizes
    if sizes == spec.shape:
        return spec
    if 0 in sizes:
        return replace(spec, shape=sizes, extents=(), strides=None, stream=None)
    strides = spec.strides or contiguous_strides(spec.shape)
    first = sum(map(operator.mul, held.offsets, strides)) * spec.dtype.itemsize
    nbytes = span(sizes, strides) * spec.dtype.itemsize
    return replace(
        spec,
        shape=sizes,
        extents=tuple(_cut(spec.extents, first, first + nbytes)),
        strides=None if is_contiguous(sizes, strides) else strides,
    )


def _cut(extents: Iterable[Extent], first: int, end: int) -> Iterator[Extent]:
    """The bytes from the `first` to before the `end` of those in the extents."""
    passed = 0
    for extent in extents:
        start, stop = max(first - passed, 0), min(end - passed, extent.nbytes)
        if start < stop:
            yield Extent(extent.file, extent.offset + start, stop - start)
        passed += extent.nbytes


def gathered(path: str, parts: Iterable[Part]) -> Gathered:
    """The tensors that the parts make up, each element once, in order of first occurrence.

    A shape that no file says is as large as the boxes that there are: what lies beyond the last
    one on an axis cannot be missed. `path` is for errors.

    Raises:
        CorruptFileError: boxes that overlap, leave a hole or lie outside; types or shapes that
            differ.
        UnsupportedFormatError: thousands of boxes in no grid.
    """
    by_name: dict[str, list[Part]] = {}
    for part in parts:
        by_name.setdefault(part.chunk.stored.name, []).append(part)
    replicas: list[Replica] = []
    tensors = [_whole(path, found, replicas) for found in by_name.values()]
    return Gathered(tuple(tensors), tuple(replicas))


def skipped_once(
    path: str, labels: Sequence[str], members: Sequence[Checkpoint], partly: Collection[str] = ()
) -> tuple[Skipped, ...]:
    """What several files skip, each name once; what they hold boxes of is put together.

    `labels` are how users call the files; tensors `partly` there are not absent. Raises as
    `gathered`.
    """
    holders: dict[str, list[tuple[str, Checkpoint, Skipped]]] = {}
    for label, member in zip(labels, members, strict=True):
        for item in member.skipped:
            if item.reason == ABSENT and item.name in partly:
                continue
            holders.setdefault(item.name, []).append((label, member, item))
    return tuple(_skipped(path, found) for found in holders.values())


def _skipped(path: str, holders: Sequence[tuple[str, Checkpoint, Skipped]]) -> Skipped:
    first = holders[0][2]
    placed = [member.placed.get(first.name) for _, member, _ in holders]
    stored = [item.stored for _, _, item in holders if item.stored is not None]
    is_summed = any(one is not None and one.is_partial for one in placed)
    if is_summed or len(stored) < len(holders):
        return replace(first, stored=None)
    if any(placed):
        parts = (
            part
            for (label, member, _), spec, place in zip(holders, stored, placed, strict=True)
            for part in parts_of_tensor(spec, place, member.path, label)
        )
        (whole,) = gathered(path, parts).tensors
        return replace(first, stored=whole)
    is_one = all(spec.shape == stored[0].shape for spec in stored)
    return first if is_one else replace(first, stored=None)


def _key(box: Box) -> bytes:
    """A key of a box, of whose hash a file has no choice, as it has of that of integers."""
    return array("q", (*box.offsets, *box.sizes)).tobytes()


def require_cover(path: str, name: str, shape: Sequence[int], boxes: Sequence[Box]) -> None:
    """CorruptFileError unless the boxes are all elements of a tensor, each of them once."""
    try:
        problem = covering_problem(shape, boxes)
    except ValueError as error:
        raise UnsupportedFormatError(path, f"is cut into {error}", tensor=name) from error
    if problem is not None:
        raise CorruptFileError(path, problem, tensor=name)


def _whole(path: str, parts: Sequence[Part], replicas: list[Replica]) -> TensorSpec:
    """One tensor of its parts; adds to `replicas` those that are there already."""
    first = parts[0].chunk.stored
    _refuse_differences(path, parts)
    shape = parts[0].whole or tuple(
        map(max, zip(*(part.chunk.box.ends for part in parts), strict=True))
    )
    kept: dict[bytes, Part] = {}
    for part in parts:
        there = kept.setdefault(_key(part.chunk.box), part)
        if there is not part and part.chunk.box.numel:
            box = None if part.chunk.box.sizes == shape else part.chunk.box
            replicas.append(Replica(part.holder, part.chunk.stored, box))
    require_cover(path, first.name, shape, [part.chunk.box for part in kept.values()])
    chunks = tuple(part.chunk for part in kept.values() if part.chunk.box.numel)
    if not chunks or chunks[0].box.sizes == shape:
        return replace(first, shape=shape) if not chunks else chunks[0].stored
    return TensorSpec(first.name, first.dtype, shape, section=first.section, chunks=chunks)


def _refuse_differences(path: str, parts: Sequence[Part]) -> None:
    """Raise CorruptFileError for parts of one name that cannot be of one tensor."""
    first = parts[0]
    for part in parts[1:]:
        mine, its = first.chunk.stored, part.chunk.stored
        if mine.dtype is its.dtype and first.whole == part.whole is not None:
            continue  # in a third of the time: boxes of other dimensions do not fit the whole
        for what, one, other in (
            ("type", mine.dtype.name, its.dtype.name),
            ("number of dimensions", len(mine.shape), len(its.shape)),
            ("whole shape", first.whole, part.whole),
        ):
            if one != other:
                shown = f"{one} in {first.holder!r} and {other} in {part.holder!r}"
                raise CorruptFileError(path, f"its {what} is {shown}", tensor=mine.name)
