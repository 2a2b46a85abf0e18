"""The boxes that ranks hold are those that torch gives them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.tensor.placement_types import (
    Partial,
    Replicate,
    Shard,
    _StridedShard,
    _StridedShardOffsetMode,
)

from gradtool.core.shapes.placements import Placement, held_boxes, read_placement

SHAPES = st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple)
MESHES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


@st.composite
def placings(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], list[Any]]:
    """A shape, a mesh, and torch's placements of such a tensor on it."""
    shape, mesh = draw(SHAPES), draw(MESHES)
    axis = st.integers(0, len(shape) - 1)
    one = st.one_of(
        st.just(Replicate()),
        axis.map(Shard),
        st.builds(
            lambda dim, pieces: _StridedShard(dim, split_factor=pieces), axis, st.integers(1, 3)
        ),
    )
    return shape, mesh, [draw(one) for _ in mesh]


def torch_holds(whole: torch.Tensor, mesh: Any, coordinate: Any, placements: list[Any]) -> Any:
    """The part of a rank, by torch's own functions, one dimension of the mesh after another."""
    for ranks, rank, placement in zip(mesh, coordinate, placements, strict=True):
        if isinstance(placement, _StridedShard):
            _, kept = placement.local_shard_size_and_offset(
                whole.shape[placement.dim], ranks, rank, _StridedShardOffsetMode.ALL
            )
            whole = whole.index_select(placement.dim, torch.tensor(kept, dtype=torch.int64))
        elif isinstance(placement, Shard):
            size = whole.shape[placement.dim]
            count, first = Shard.local_shard_size_and_offset(size, ranks, rank)
            whole = whole.narrow(placement.dim, first, count)
    return whole


@given(placing=placings())
def test_every_rank_holds_what_torch_gives_it(placing: Any) -> None:
    shape, mesh, placements = placing
    whole = torch.arange(math.prod(shape)).reshape(shape)
    read = [read_placement(repr(placement)) for placement in placements]
    assert read == [read_placement(str(placement)) for placement in placements]
    for coordinate in itertools.product(*map(range, mesh)):
        part = torch_holds(whole, mesh, coordinate, placements).numpy()
        found = np.full(part.shape, -1)
        for box, offsets in held_boxes(shape, mesh, coordinate, [one for one in read if one]):
            there = tuple(slice(at, at + size) for at, size in zip(offsets, box.sizes, strict=True))
            here = tuple(slice(*ends) for ends in zip(box.offsets, box.ends, strict=True))
            assert (found[there] == -1).all()
            found[there] = whole[here].numpy()
        assert (found == part).all()


def test_texts_of_placements() -> None:
    assert read_placement(repr(Partial("sum"))) == Placement(is_partial=True)
    assert read_placement(str(Partial("avg"))) == Placement(is_partial=True)
    for text in ("", "Shard", "Shard(dim=-1)", "Shard(dim=0) ", "S(0)x", "Shard(dim=٣)", "None"):
        assert read_placement(text) is None
