"""Parameters in flat partitions: where each lies, and the tensors that are made of their pieces.

Stages 1 and 2 lay the parameters of a group in a row, which is cut into one partition for each
rank: all are of the size of the first but for padding, which is stored or not. Stage 3 cuts each
parameter into as many pieces of one size as there are ranks. Sources: `zero_to_fp32.py` of
deepspeed/utils, by which files without any padding are read as those with all of it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from gradtool.core.locations import Extent
from gradtool.core.tensors import Skipped, TensorSpec
from gradtool.errors import CorruptFileError
from gradtool.formats.layouts.deepspeed.states import OptimState, Shapes, State


class Place(NamedTuple):
    """A parameter, and where in its group's row it begins; of stage 3, in each partition."""

    name: str
    shape: tuple[int, ...]
    numel: int
    start: int


class Piece(NamedTuple):
    """`numel` elements of a parameter, which begin at the `first` of a rank's partition."""

    rank: int
    first: int
    numel: int


class Group(NamedTuple):
    """The parameters of a group in their order, and the number of elements that they take."""

    places: list[Place]
    used: int


def group_of(first: OptimState, number: int, shapes: Shapes) -> Group:
    """Where the parameters of a group lie, by what the first rank says.

    Raises CorruptFileError where numbers of paddings are not those of parameters.
    """
    paddings = None if first.paddings is None else first.paddings[number]
    if paddings is not None and len(paddings) != len(shapes):
        first.state.broken(f"param_alignment_paddings of group {number} are not of its parameters")
    places = []
    start = 0
    for position, (name, shape) in enumerate(shapes.items()):
        numel = math.prod(shape)
        places.append(Place(name, shape, numel, start))
        start += -(-numel // first.world) if first.is_stage_3 else numel
        used = start
        if paddings is not None:
            start += paddings[position]
    return Group(places, used if places else 0)


def pieces(place: Place, row: int, world: int, *, is_stage_3: bool) -> Iterator[Piece]:
    """The pieces of a parameter, in C order; `row` is the size of the first rank's partition."""
    if is_stage_3:
        share = -(-place.numel // world)
        for rank in range(world if share else 0):
            numel = min(share, place.numel - rank * share)
            if numel <= 0:
                return
            yield Piece(rank, place.start, numel)
        return
    at, stop = place.start, place.start + place.numel
    while at < stop:
        rank, first = divmod(at, row) if row else (world, 0)
        numel = min(stop - at, row - first)
        yield Piece(rank, first, numel)
        if rank >= world:
            return  # which is beyond all partitions, whatever they claim
        at += numel


def tensors_of(
    path: str, group: Group, flats: Sequence[TensorSpec | None], *, is_stage_3: bool
) -> Iterator[TensorSpec]:
    """The parameters of a group, put together of all ranks' partitions of one kind.

    A rank of which no element is used may have none. They are called as the parameters. `path` is
    the checkpoint's.

    Raises CorruptFileError for a partition that is missing, too short or of another type, and for
    elements that are no parameter's and more than padding.
    """
    first = next(flat for flat in flats if flat is not None)
    world = len(flats)
    row = flats[0].shape[0] if flats[0] is not None else 0
    _refuse_rest(path, group, flats, first.name, is_stage_3=is_stage_3)
    for place in group.places:
        extents = []
        for piece in pieces(place, row, world, is_stage_3=is_stage_3):
            flat = flats[piece.rank] if piece.rank < world else None
            if flat is None or piece.first + piece.numel > flat.shape[0]:
                problem = f"its elements are not all in the ranks' partitions {first.name!r:.80}"
                raise CorruptFileError(path, problem, tensor=place.name)
            if (flat.dtype, flat.big_endian) != (first.dtype, first.big_endian):
                problem = f"ranks have partitions {first.name!r:.80} of different types"
                raise CorruptFileError(path, problem, tensor=place.name)
            extents.append(_cut(flat, piece))
        yield TensorSpec(
            place.name,
            first.dtype,
            place.shape,
            tuple(extents),
            big_endian=first.big_endian,
        )


def _refuse_rest(
    path: str, group: Group, flats: Sequence[TensorSpec | None], name: str, *, is_stage_3: bool
) -> None:
    """Raise CorruptFileError for elements that are no parameter's and more than padding.

    DeepSpeed pads a row to twice as many elements as there are ranks; stage 3 pads parameters.
    """
    sizes = [0 if flat is None else flat.shape[0] for flat in flats]
    if is_stage_3:
        rest, most = max(sizes) - group.used, 0
    else:
        rest, most = sum(sizes) - group.used, 2 * len(flats) - 1
    if rest > most:
        problem = f"{rest:,} elements of {name!r:.80} are no parameter's that param_shapes names"
        raise CorruptFileError(path, problem)


def _cut(flat: TensorSpec, piece: Piece) -> Extent:
    (extent,) = flat.extents
    itemsize = flat.dtype.itemsize
    return Extent(extent.file, extent.offset + piece.first * itemsize, piece.numel * itemsize)


def refuse_shared(state: State, flat: Collection[str]) -> None:
    """Raise CorruptFileError where a `flat` tensor of a file shares elements with any other."""
    ranges: list[tuple[int, int, str]] = []
    items: list[TensorSpec | Skipped] = [*state.catalogue.tensors, *state.catalogue.skipped]
    for item in items:
        ranges += ((extent.offset, extent.end, item.name) for extent in item.extents)
    ranges.sort()
    end, owner = 0, ""
    for start, stop, name in ranges:
        if start < end and (name in flat or owner in flat):
            state.broken(f"shares elements with {owner!r:.80}", name)
        if stop > end:
            end, owner = stop, name
