"""Where the part of a DTensor that one rank holds belongs in the whole tensor.

Source: `_compute_local_shape_and_global_offset` of torch/distributed/tensor/_utils.py, and `Shard`
and `_StridedShard` of placement_types.py there.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from gradtool.core.shapes.boxes import Box, Held


class Run(NamedTuple):
    """Consecutive indices of an axis."""

    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Placement:
    """What becomes of a tensor along one dimension of the mesh of ranks.

    Attributes:
        axis: the tensor's axis that is divided; None where all ranks hold the same.
        pieces: into how many pieces the axis is cut first, each of which is divided: 1 but where
            another dimension of the mesh was to divide it before this one.
        is_partial: whether the ranks hold summands of the tensor.
    """

    axis: int | None = None
    pieces: int = 1
    is_partial: bool = False


MOST_PIECES: Final = 4096
"""Pieces that an axis is cut into first; torch cuts it into as many as a mesh has ranks."""

_SHARD: Final = re.compile(r"(?:Shard\(dim=|S\()(\d{1,3})\)", re.ASCII)
_STRIDED: Final = re.compile(
    r"(?:_StridedShard\(dim=|_S\()(\d{1,3}), (?:sf=|split_factor=)?(\d{1,9})\)", re.ASCII
)


def read_placement(text: str) -> Placement | None:
    """The placement that torch writes as `text`; None for what is none."""
    if text in ("Replicate()", "R"):
        return Placement()
    if match := _SHARD.fullmatch(text):
        return Placement(axis=int(match[1]))
    if match := _STRIDED.fullmatch(text):
        return Placement(axis=int(match[1]), pieces=int(match[2]))
    return Placement(is_partial=True) if text.startswith(("Partial(", "P(")) else None


def held_boxes(
    shape: Sequence[int],
    mesh: Sequence[int],
    coordinate: Sequence[int],
    placements: Sequence[Placement],
) -> list[Held]:
    """The boxes that the rank at `coordinate` of a mesh holds: one, unless an axis is cut first."""
    axes = [[Run(0, size)] for size in shape]
    for ranks, rank, placement in zip(mesh, coordinate, placements, strict=True):
        if placement.axis is not None:
            axes[placement.axis] = _divided(axes[placement.axis], ranks, rank, placement.pieces)
    placed = [list(_with_offsets(runs)) for runs in axes]
    boxes = []
    for chosen in itertools.product(*placed):
        starts = tuple(run.start for run, _ in chosen)
        sizes = tuple(run.size for run, _ in chosen)
        boxes.append(Held(Box(starts, sizes), tuple(offset for _, offset in chosen)))
    return boxes


def fits_mesh(
    shape: Sequence[int],
    mesh: Sequence[int],
    coordinate: Sequence[int],
    placements: Sequence[Placement],
) -> bool:
    """Whether the numbers can be those of a DTensor, so that `held_boxes` takes them."""
    return (
        len(mesh) == len(coordinate) == len(placements)
        and all(place < size for place, size in zip(coordinate, mesh, strict=True))
        and all(one.axis is None or one.axis < len(shape) for one in placements)
        and all(1 <= one.pieces <= MOST_PIECES for one in placements)
    )


def _with_offsets(runs: Sequence[Run]) -> Iterable[tuple[Run, int]]:
    return zip(runs, itertools.accumulate((run.size for run in runs), initial=0), strict=False)


def _divided(runs: Sequence[Run], ranks: int, rank: int, pieces: int) -> list[Run]:
    """The indices that are left for one of the ranks, of those in `runs`."""
    count = sum(run.size for run in runs)
    kept: list[Run] = []
    for piece in range(min(pieces, max(count, 1))):  # those that come later are empty
        first, last = _share(0, count, pieces, piece)
        for run in _between(runs, *_share(first, last, ranks, rank)):
            if kept and kept[-1].start + kept[-1].size == run.start:
                kept[-1] = Run(kept[-1].start, kept[-1].size + run.size)
            else:
                kept.append(run)
    return kept or [Run(runs[-1].start + runs[-1].size, 0)]


def _share(first: int, last: int, parts: int, part: int) -> tuple[int, int]:
    """The range of one part, as `torch.chunk` cuts: all of one size but the last ones."""
    size = -(-(last - first) // parts)
    return min(first + part * size, last), min(first + (part + 1) * size, last)


def _between(runs: Iterable[Run], first: int, last: int) -> Iterable[Run]:
    """The indices from the `first`-th to before the `last`-th of those in `runs`."""
    passed = 0
    for run in runs:
        start, end = max(first - passed, 0), min(last - passed, run.size)
        if start < end:
            yield Run(run.start + start, end - start)
        passed += run.size
