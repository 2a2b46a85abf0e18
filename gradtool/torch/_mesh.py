"""DTensors: this rank's part of a gradient, and gathering the results of all ranks of a mesh."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.tensor import DTensor


class Shard(NamedTuple):
    """The elements of a DTensor on this rank, and the groups of ranks that hold the others.

    There is a group for each dimension of the mesh over which the tensor is split, and none where
    it is replicated: every rank has the same elements there, and they count once.
    """

    local: torch.Tensor
    groups: tuple[ProcessGroup, ...]


def is_dtensor(tensor: object) -> bool:
    """Whether `tensor` is a DTensor; torch's module for them is never imported for it."""
    module: Any = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def waited(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or the result of a collective under way, which is waited for."""
    module: Any = sys.modules.get("torch.distributed._functional_collectives")
    if module is not None and isinstance(tensor, module.AsyncCollectiveTensor):
        result: torch.Tensor = tensor.wait()
        return result
    return tensor


def is_partial(tensor: DTensor) -> bool:
    """Whether ranks hold summands of the gradient, whose sum is yet to be done."""
    return any(placement.is_partial() for placement in tensor.placements)


def reduced(tensor: DTensor) -> DTensor:
    """The gradient with its pending sums done, on every rank."""
    from torch.distributed.tensor import Replicate  # noqa: PLC0415 - loaded with any DTensor

    placements = [
        Replicate() if placement.is_partial() else placement for placement in tensor.placements
    ]
    return tensor.redistribute(placements=placements)


def shard_of(tensor: DTensor) -> Shard:
    """The part of this rank, in the gradient's own memory, and the groups that split it."""
    mesh = tensor.device_mesh
    groups = tuple(
        mesh.get_group(dimension)
        for dimension, placement in enumerate(tensor.placements)
        # Not is_shard(), which is False for the placements of FSDP2 over tensor parallelism.
        if not (placement.is_replicate() or placement.is_partial())
    )
    return Shard(waited(tensor.to_local()), groups)


def gathered(value: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
    """The values of all ranks of `group`, stacked in the order of ranks.

    They are not reduced by the backend: gloo's maximum may lose a NaN, and the order of a sum would
    differ between machines.
    """
    size = torch.distributed.get_world_size(group)
    values = [torch.empty_like(value) for _ in range(size)]
    torch.distributed.all_gather(values, value, group=group)
    return torch.stack(values)


def replicated_like(value: torch.Tensor, like: DTensor) -> torch.Tensor:
    """A value that is the same on every rank, as a replicated DTensor on the mesh of `like`."""
    from torch.distributed.tensor import DTensor, Replicate  # noqa: PLC0415 - as above

    mesh = like.device_mesh
    return DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)
