"""torch's distributed checkpoints (DCP) of FSDP2, and Hugging Face's storage writer."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
)

from writers.nets import adam, mesh_of, net, sharded, train
from writers.oracles import Oracle, SectionOf, flat, gathered, of_training
from writers.processes import run_ranks

STEPS: Final = 3


def _save(state: dict[str, Any], path: str, **options: Any) -> None:
    # A random name of the save would be other bytes each time.
    filesystem._generate_uuid = lambda: "00000000-0000-4000-8000-000000000000"
    dcp.save(state, checkpoint_id=path, **options)


def _trained(world: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    module = sharded(net(), mesh_of(world))
    optimizer = adam(module)
    train(module, optimizer, range(STEPS), torch.distributed.get_rank())
    return module, optimizer


def _grads(module: nn.Module) -> dict[str, Any]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def _write(
    state: dict[str, Any], section_of: SectionOf, loader: str = "dcp", **options: Any
) -> None:
    """Save a state as the only checkpoint, and its oracle."""
    _save(state, "checkpoint", **options)
    whole = gathered(state)
    if torch.distributed.get_rank() == 0:
        oracle = Oracle((), torch.distributed.get_world_size())
        oracle.add("checkpoint", loader, whole, section_of)
        oracle.write()


def _training(_rank: int, world: int) -> None:
    module, optimizer = _trained(world)
    state = {
        "model": get_model_state_dict(module),
        "optimizer": get_optimizer_state_dict(module, optimizer),
        "grads": _grads(module),
    }
    _write(state, of_training)


def _gradients(_rank: int, world: int) -> None:
    module, _ = _trained(world)
    _write(_grads(module), flat)


def _safetensors_items(_rank: int, world: int) -> None:
    module, optimizer = _trained(world)
    state = {
        "model": get_model_state_dict(module),
        "optimizer": get_optimizer_state_dict(module, optimizer),
    }
    items = filesystem.SerializationFormat.SAFETENSORS
    storage = filesystem.FileSystemWriter("checkpoint", serialization_format=items)
    _write(state, of_training, "dcp_safetensors", storage_writer=storage)


def _hugging_face(_rank: int, world: int) -> None:
    module, _ = _trained(world)
    grads = _grads(module) | {"temperature": module.temperature}
    files = {name: 1 + i % 2 for i, name in enumerate(grads)}
    storage = dcp.HuggingFaceStorageWriter("checkpoint", files, save_distributed=True)
    _write(grads, flat, "dcp_hf", storage_writer=storage)


def _hybrid(rank: int, world: int) -> None:
    """Shards of two ranks, replicated over two such pairs (HSDP)."""
    mesh = torch.distributed.device_mesh.init_device_mesh(
        "cpu", (2, world // 2), mesh_dim_names=("replicate", "shard")
    )
    module = sharded(net(), mesh)
    train(module, adam(module), range(1), rank)
    _write({"model": get_model_state_dict(module), "grads": _grads(module)}, of_training)


class _Torchtitan:
    """What torchtitan's components give to be saved, under torchtitan's names."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state

    def state_dict(self) -> dict[str, Any]:
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state = state


def _torchtitan(rank: int, world: int) -> None:
    """Its `checkpoint/step-N`: weights at the top, one item each for what an optimizer knows."""
    module = sharded(net(), mesh_of(world))
    optimizer = adam(module)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    oracle, done = Oracle((), world), 0
    for step in (5, 10):
        train(module, optimizer, range(done, step), rank)
        schedule.step()
        done = step
        flattened = StateDictOptions(flatten_optimizer_state_dict=True)
        moments = get_optimizer_state_dict(module, optimizer, options=flattened)
        rest = {key: value for key, value in schedule.state_dict().items() if key != "lr_lambdas"}
        state = get_model_state_dict(module) | {
            "optimizer": _Torchtitan(moments),
            "lr_scheduler": _Torchtitan(rest),
            "dataloader": _Torchtitan({f"dp_rank_{rank}": b"\x80\x04N.", "world_size": world}),
            "train_state": _Torchtitan({"step": step, "ntokens_seen": 36 * world * step}),
        }
        path = f"checkpoint/step-{step}"
        _save(state, path)
        whole = gathered(get_model_state_dict(module) | {"optimizer": moments})
        oracle.add(path, "dcp", whole, of_training, step=step)
    if rank == 0:
        oracle.refused = ["checkpoint"]
        oracle.write()


WRITERS: Final = {
    **{f"dcp_{world}": partial(run_ranks, _training, world) for world in (1, 2, 4)},
    "dcp_gradients": partial(run_ranks, _gradients, 2),
    "dcp_safetensors": partial(run_ranks, _safetensors_items, 2),
    "dcp_hf": partial(run_ranks, _hugging_face, 2),
    "dcp_hsdp": partial(run_ranks, _hybrid, 4),
    "torchtitan": partial(run_ranks, _torchtitan, 2),
}
"""What writes each layout into the current directory."""
