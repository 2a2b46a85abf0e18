"""What a pickled DTensor says about the part of it that a file holds.

Source: `DTensorSpec` of torch/distributed/tensor/_dtensor_spec.py, and `DeviceMesh` of
torch/distributed/device_mesh.py, whose state names the shape of the mesh and the place in it of the
rank that saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from gradtool.core.shapes.placements import Placement
from gradtool.core.tensors import Placed
from gradtool.formats.pickles.stand_ins import Opaque, TensorRef

_LIMIT: Final = 1 << 62
_PLACEMENTS: Final = "torch.distributed.tensor.placement_types."


def placed_parts(dtensors: Mapping[str, Opaque]) -> dict[str, Placed]:
    """Where the parts of DTensors belong that a file holds, of those of which it says that."""
    parts = ((name, _placed_part(dtensor)) for name, dtensor in dtensors.items())
    return {name: placed for name, placed in parts if placed is not None}


def _placed_part(dtensor: Opaque) -> Placed | None:
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
