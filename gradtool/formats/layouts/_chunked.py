"""Tensors put together from the boxes that several files hold of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from gradtool.core.shapes.boxes import Box, covering_problem
from gradtool.core.tensors import Checkpoint, Chunk, TensorSpec
from gradtool.errors import CorruptFileError, UnsupportedFormatError


class Part(NamedTuple):
    """What one file holds of a tensor: a box, and in which file it was found.

    `whole` is the tensor's shape, None where the file does not say it.
    """

    chunk: Chunk
    whole: tuple[int, ...] | None
    file: str


class Replica(NamedTuple):
    """A box of a tensor that two files hold; the tensor is made of the first one."""

    first: Part
    other: Part


@dataclass(frozen=True, slots=True)
class Gathered:
    """Whole tensors, and the parts that are left over because others hold the same boxes."""

    tensors: tuple[TensorSpec, ...]
    replicas: tuple[Replica, ...]


def parts_of(catalogue: Checkpoint) -> Iterator[Part]:
    """The parts in a file that says which boxes it holds, or that holds whole tensors."""
    file = catalogue.path
    for spec in catalogue.tensors:
        placed = catalogue.placed.get(spec.name)
        if placed is None:
            yield Part(Chunk(Box((0,) * len(spec.shape), spec.shape), spec), spec.shape, file)
        else:
            yield Part(Chunk(placed.box, spec), placed.whole, file)


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


def refuse_replicas(path: str, replicas: Sequence[Replica]) -> None:
    """UnsupportedFormatError if there are any: which of the two is meant, nothing tells."""
    for first, other in replicas:
        raise UnsupportedFormatError(
            path,
            f"its box {other.chunk.box} is in two files, {first.file!r} and {other.file!r}",
            tensor=other.chunk.stored.name,
        )


def _whole(path: str, parts: Sequence[Part], replicas: list[Replica]) -> TensorSpec:
    """One tensor of its parts; adds to `replicas` those that are there already."""
    first = parts[0].chunk.stored
    _refuse_differences(path, parts)
    shape = parts[0].whole or tuple(
        map(max, zip(*(part.chunk.box.ends for part in parts), strict=True))
    )
    kept: dict[Box, Part] = {}
    for part in parts:
        there = kept.setdefault(part.chunk.box, part)
        if there is not part and part.chunk.box.numel:
            replicas.append(Replica(there, part))
    try:
        problem = covering_problem(shape, list(kept))
    except ValueError as error:
        raise UnsupportedFormatError(path, f"is cut into {error}", tensor=first.name) from error
    if problem is not None:
        raise CorruptFileError(path, problem, tensor=first.name)
    chunks = tuple(part.chunk for part in kept.values() if part.chunk.box.numel)
    if not chunks or chunks[0].box.sizes == shape:
        return replace(first, shape=shape) if not chunks else chunks[0].stored
    return TensorSpec(first.name, first.dtype, shape, section=first.section, chunks=chunks)


def _refuse_differences(path: str, parts: Sequence[Part]) -> None:
    """Raise CorruptFileError for parts of one name that cannot be of one tensor."""
    first = parts[0]
    for part in parts[1:]:
        mine, its = first.chunk.stored, part.chunk.stored
        for what, one, other in (
            ("type", mine.dtype.name, its.dtype.name),
            ("number of dimensions", len(mine.shape), len(its.shape)),
            ("whole shape", first.whole, part.whole),
        ):
            if one != other:
                shown = f"{one} in {first.file!r} and {other} in {part.file!r}"
                raise CorruptFileError(path, f"its {what} is {shown}", tensor=mine.name)
