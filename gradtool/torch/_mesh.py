"""DTensors: this rank's part of a gradient, and what the ranks of a mesh find together."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.tensor import DTensor


class Shard(NamedTuple):
    """The elements of a DTensor on this rank, and the groups of ranks that hold the others.

    A group for each dimension of the mesh over which the tensor is split; where it is
    replicated, every rank has the same elements, and they count once.
    """

    local: torch.Tensor
    groups: tuple[ProcessGroup, ...]


def is_dtensor(tensor: object) -> bool:
    """Whether it is a DTensor; where nobody has imported those there is none."""
    module: Any = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def waited(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor that a collective under way is to fill, once it has."""
    module: Any = sys.modules.get("torch.distributed._functional_collectives")
    if module is not None and isinstance(tensor, module.AsyncCollectiveTensor):
        arrived: torch.Tensor = tensor.wait()
        return arrived
    return tensor


def is_partial(tensor: DTensor) -> bool:
    """Whether ranks hold summands, so that only all of them together are the gradient."""
    return any(placement.is_partial() for placement in tensor.placements)


def reduced(tensor: DTensor) -> DTensor:
    """The same gradient with its pending sums done, on every rank."""
    from torch.distributed.tensor import Replicate  # noqa: PLC0415 - whoever has a DTensor has it

    placements = [Replicate() if at.is_partial() else at for at in tensor.placements]
    return tensor.redistribute(placements=placements)


def shard_of(tensor: DTensor) -> Shard:
    """The part of this rank; its memory is the gradient's own."""
    mesh = tensor.device_mesh
    groups = tuple(
        mesh.get_group(dimension)
        for dimension, placement in enumerate(tensor.placements)
        # Not is_shard(): that is False of what FSDP2 over tensor parallelism splits by.
        if not (placement.is_replicate() or placement.is_partial())
    )
    return Shard(waited(tensor.to_local()), groups)


def gathered(value: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
    """The values of all ranks of `group`, in their order.

    Gathered rather than reduced by the backend: the maximum that gloo takes may lose a NaN, and
    an order of its own is not the same on every machine.
    """
    size = torch.distributed.get_world_size(group)
    values = [torch.empty_like(value) for _ in range(size)]
    torch.distributed.all_gather(values, value, group=group)
    return torch.stack(values)


def replicated_like(value: torch.Tensor, like: DTensor) -> torch.Tensor:
    """A number that every rank knows, as a DTensor on the mesh of `like`."""
    from torch.distributed.tensor import DTensor, Replicate  # noqa: PLC0415 - as above

    mesh = like.device_mesh
    return DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)
