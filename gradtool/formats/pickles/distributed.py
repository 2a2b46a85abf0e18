"""What a pickled DTensor or ShardedTensor says about the part of it that a file holds.

Source: `DTensorSpec` of torch/distributed/tensor/_dtensor_spec.py, and `DeviceMesh` of
torch/distributed/device_mesh.py, whose state names the shape of the mesh and the place in it of the
rank that saved; `ShardedTensor.__getstate__` of torch/distributed/_shard/sharded_tensor/api.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from gradtool.core.shapes.boxes import Box, Held
from gradtool.core.shapes.placements import Placement
from gradtool.core.tensors import Placed
from gradtool.formats.pickles.stand_ins import Opaque, TensorRef

_LIMIT: Final = 1 << 62
_SHARDED_TENSOR: Final = "torch.distributed._shard.sharded_tensor.api.ShardedTensor"
_PLACEMENTS: Final = "torch.distributed.tensor.placement_types."


def local_part(value: Opaque) -> object:
    """The part of a distributed tensor that this file holds; None for anything else.

    None also for ShardedTensors of which it holds several parts.
    """
    if value.name.endswith(".DTensor"):
        return _attributes(value).get("_local_tensor")
    shard = _only_shard(value)
    return None if shard is None else _attributes(shard).get("tensor")


def placed_parts(tensors: Mapping[str, Opaque]) -> dict[str, Placed]:
    """Where the parts of distributed tensors belong that a file holds, where it says that."""
    parts = (
        (name, _shard_place(value) if value.name == _SHARDED_TENSOR else _dtensor_place(value))
        for name, value in tensors.items()
    )
    return {name: placed for name, placed in parts if placed is not None}


def _only_shard(value: Opaque) -> Opaque | None:
    """The one shard of a ShardedTensor in this file."""
    state = value.state if value.name == _SHARDED_TENSOR else None
    shards = state[0] if isinstance(state, tuple) and state else None
    if isinstance(shards, list) and len(shards) == 1 and isinstance(shards[0], Opaque):
        return shards[0]
    return None


def _shard_place(value: Opaque) -> Placed | None:
    state = value.state
    size = (
        _attributes(state[1]).get("size") if isinstance(state, tuple) and len(state) > 1 else None
    )
    whole, place = _integers(size), _attributes(_attributes(_only_shard(value)).get("metadata"))
    offsets, sizes = _integers(place.get("shard_offsets")), _integers(place.get("shard_sizes"))
    if whole is None or offsets is None or sizes is None or len(offsets) != len(sizes):
        return None
    return Placed((Held(Box(offsets, sizes), (0,) * len(sizes)),), whole)


def _dtensor_place(dtensor: Opaque) -> Placed | None:
    spec = _attributes(dtensor).get("_spec")
    described = _attributes(spec)
    whole = _shape(described.get("tensor_meta"))
    mesh = _attributes(described.get("mesh"))
    sizes, coordinate = _mesh_shape(mesh), _integers(mesh.get("_coordinate_on_dim"))
    placements = _read_placements(described.get("placements"))
    if whole is None or sizes is None or coordinate is None or placements is None:
        return None
    return Placed.on_mesh(whole, sizes, coordinate, placements)


def _attributes(value: object) -> dict[object, object]:
    """The attributes of an unknown object: its state, or the first dict of a pair."""
    state = value.state if isinstance(value, Opaque) else None
    parts = state if isinstance(state, tuple) else (state,)
    merged: dict[object, object] = {}
    for part in parts:
        if isinstance(part, dict):
            merged.update(part)
    return merged


def _shape(tensor_meta: object) -> tuple[int, ...] | None:
    if isinstance(tensor_meta, Opaque) and tensor_meta.args:
        return _integers(tensor_meta.args[0])
    return None


def _mesh_shape(mesh: dict[object, object]) -> tuple[int, ...] | None:
    """Ranks along each dimension, which torch has kept in a tensor, and since 2.10 in a layout."""
    ranks = mesh.get("mesh")
    if isinstance(ranks, TensorRef):
        return _integers(ranks.shape)
    axes = _attributes(mesh.get("_layout")).get("axes")
    if not isinstance(axes, tuple):
        return None
    shapes = [_integers(_attributes(axis).get("shape")) for axis in axes]
    found = [shape for shape in shapes if shape is not None and len(shape) == 1]
    return tuple(shape[0] for shape in found) if len(found) == len(axes) else None


def _read_placements(found: object) -> list[Placement] | None:
    if not isinstance(found, tuple):
        return None
    placements = list(_each_placement(found))
    return placements if len(placements) == len(found) else None


def _each_placement(found: tuple[object, ...]) -> Iterator[Placement]:
    for value in found:
        name = value.name if isinstance(value, Opaque) else ""
        attributes = _attributes(value)
        axis, pieces = attributes.get("dim"), attributes.get("split_factor", 1)
        if name == f"{_PLACEMENTS}Replicate":
            yield Placement()
        elif name == f"{_PLACEMENTS}Partial":
            yield Placement(is_partial=True)
        elif name in (f"{_PLACEMENTS}Shard", f"{_PLACEMENTS}_StridedShard"):
            numbers = _integers((axis, pieces))
            if numbers is not None:
                yield Placement(axis=numbers[0], pieces=numbers[1])


def _integers(found: object) -> tuple[int, ...] | None:
    if isinstance(found, tuple | list) and all(
        type(number) is int and 0 <= number < _LIMIT for number in found
    ):
        return tuple(found)
    return None
