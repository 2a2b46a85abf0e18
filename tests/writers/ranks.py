"""Files that each rank writes for itself: parts of tensors, or the same whole ones again."""

from __future__ import annotations

import os
import warnings
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FullyShardedDataParallel,
    ShardedOptimStateDictConfig,
    ShardedStateDictConfig,
    StateDictType,
)
from torch.nn.parallel import DistributedDataParallel

from gradtool.torch import dump_gradients
from writers.nets import Net, adam, mesh_of, net, sharded, train
from writers.oracles import Oracle, flat, gathered, model
from writers.processes import run_ranks

STEPS: Final = 2


def _folder() -> None:
    os.makedirs("checkpoint", exist_ok=True)


def _dtensors(rank: int, world: int) -> None:
    """FSDP2's state dict as it is, a DTensor for each parameter."""
    module = sharded(net(), mesh_of(world))
    train(module, adam(module), range(STEPS), rank)
    state = module.state_dict()
    _folder()
    torch.save(state, f"checkpoint/model_rank{rank}.pt")
    whole = gathered(state)
    if rank == 0:
        oracle = Oracle((), world)
        oracle.add("checkpoint", "torch_ranks", whole, model)
        oracle.write()


def _strided(rank: int, world: int) -> None:
    """DTensors that tensor parallelism has cut first, and FSDP2 after it."""
    mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("data", "tensor"))
    module = net()
    plan = {
        "up": torch.distributed.tensor.parallel.ColwiseParallel(),
        "down": torch.distributed.tensor.parallel.RowwiseParallel(),
    }
    block = module.layers[0].up  # 25 rows, which two ranks cannot halve
    for name, tensor in {"up": block, "down": module.layers[0].down}.items():
        single = nn.ModuleDict({name: tensor})
        torch.distributed.tensor.parallel.parallelize_module(
            single, mesh["tensor"], {name: plan[name]}
        )
    sharded(module, mesh["data"])
    _folder()
    torch.save(module.state_dict(), f"checkpoint/model_rank{rank}.pt")
    if rank == 0:
        oracle = Oracle((), world)
        oracle.add("checkpoint", "torch_ranks", net().state_dict(), model)
        oracle.write()


def _dumps(rank: int, world: int) -> None:
    """`gradtool.torch.dump_gradients`, called on each rank."""
    module = sharded(net(), mesh_of(world))
    train(module, adam(module), range(STEPS), rank)
    _folder()
    dump_gradients(module, "checkpoint/grads.rank{rank}.safetensors", step=STEPS)
    whole = gathered({name: parameter.grad for name, parameter in module.named_parameters()})
    if rank == 0:
        oracle = Oracle((), world)
        oracle.add("checkpoint", "dump_ranks", whole, flat, step=STEPS)
        oracle.write()


def _fsdp1(rank: int, world: int, *, as_dtensors: bool) -> None:
    """FSDP1's sharded state dict, of DTensors if it was given a mesh, else of ShardedTensors."""
    warnings.simplefilter("ignore")
    module = net().to(torch.float32)
    mesh = mesh_of(world) if as_dtensors else None
    wrapped = FullyShardedDataParallel(
        module, device_mesh=mesh, use_orig_params=True, device_id=torch.device("cpu")
    )
    train(wrapped, adam(wrapped), range(STEPS), rank)
    whole_config = StateDictType.FULL_STATE_DICT
    with FullyShardedDataParallel.state_dict_type(wrapped, whole_config):
        whole = {name: tensor.clone() for name, tensor in wrapped.state_dict().items()}
    sharded_config = ShardedStateDictConfig(), ShardedOptimStateDictConfig()
    with FullyShardedDataParallel.state_dict_type(
        wrapped, StateDictType.SHARDED_STATE_DICT, *sharded_config
    ):
        state = wrapped.state_dict()
    _folder()
    torch.save(state, f"checkpoint/model_world_size_{world}_rank_{rank}.pt")
    if rank == 0:
        oracle = Oracle((), world)
        oracle.add("checkpoint", "torch_ranks", whole, model)
        oracle.write()


def _replicas(rank: int, world: int, *, equal: bool) -> None:
    """Gradients of plain data parallelism: of all ranks, or as each has them before the sum."""
    module: nn.Module = net()
    if equal:
        module = DistributedDataParallel(module)
    train(module, adam(module), range(STEPS if equal else 1), rank)
    inner: nn.Module = module.module if equal else module
    assert isinstance(inner, Net)
    grads = {name: parameter.grad for name, parameter in inner.named_parameters()}
    _folder()
    torch.save(grads, f"checkpoint/grads_rank_{rank}.pt")
    theirs: list[dict[str, Tensor]] = [{} for _ in range(world)]
    torch.distributed.all_gather_object(theirs, grads)
    if rank == 0:
        oracle = Oracle((), world)
        if equal:
            oracle.add("checkpoint", "torch_ranks", theirs[0], flat)
        else:
            oracle.refused = ["checkpoint"]
        for number, each in enumerate(theirs):
            oracle.add(f"checkpoint/grads_rank_{number}.pt", "torch", each, flat)
        oracle.write()


WRITERS: Final = {
    "ranks_dtensor_2": partial(run_ranks, _dtensors, 2),
    "ranks_dtensor_4": partial(run_ranks, _dtensors, 4),
    "ranks_strided": partial(run_ranks, _strided, 4),
    "ranks_dump_gradients": partial(run_ranks, _dumps, 2),
    "ranks_fsdp1_dtensor": partial(run_ranks, partial(_fsdp1, as_dtensors=True), 2),
    "ranks_fsdp1_sharded_tensor": partial(run_ranks, partial(_fsdp1, as_dtensors=False), 2),
    "ranks_replicas_equal": partial(run_ranks, partial(_replicas, equal=True), 2),
    "ranks_replicas_differing": partial(run_ranks, partial(_replicas, equal=False), 2),
}
"""What writes each layout into the current directory."""
