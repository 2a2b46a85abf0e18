"""Models that FSDP2 and tensor parallelism shard, as a rank of `two_ranks` trains them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

import gradtool.torch as gt

STEPS = 4
BOUND = 0.05
WIDTH = 6
WORDS = 11


def arriving(mesh: DeviceMesh) -> dict[str, Any]:
    """Gradients whose sums over two ranks are under way while they are clipped."""
    parameters = []
    for _ in range(3):
        ours = DTensor.from_local(torch.full((5,), 3.0), mesh, [Partial()], run_check=False)
        parameter = nn.Parameter(distribute_tensor(torch.zeros(5), mesh, [Replicate()]))
        parameter.grad = ours.redistribute(mesh, [Replicate()], async_op=True)
        parameters.append(parameter)
    kinds = {type(parameter.grad._local_tensor).__name__ for parameter in parameters}
    norm = float(gt.clip_grad_norm_(parameters, 1.0, dtype=torch.float64))
    after = [parameter.grad.full_tensor().tolist() for parameter in parameters]
    return {"kinds": kinds, "norm": norm, "after": after}


class Block(nn.Module):
    """A feed-forward block; of its widths only the inner one is even."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 10)
        self.down = nn.Linear(10, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


def model(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """The same on every rank.

    In float64, so that two ways to the same gradients agree to many digits whatever the order in
    which torch adds them up: in float32 that depends on the vector unit, and on luck.
    """
    torch.manual_seed(42)
    blocks = [Block(WIDTH), Block(WIDTH)]
    made = nn.Sequential(nn.Embedding(WORDS, WIDTH), *blocks, nn.Linear(WIDTH, 3))
    return made.to(dtype)


def sharded(module: nn.Sequential, mesh: DeviceMesh) -> nn.Sequential:
    """The model by FSDP2, block by block."""
    for child in module:
        if isinstance(child, Block):
            fully_shard(child, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module


def words(mesh: DeviceMesh) -> Tensor:
    """A batch of this rank's own."""
    generator = torch.Generator().manual_seed(43 + mesh.get_local_rank())
    return torch.randint(0, WORDS, (3, 8), generator=generator)


def trained(
    clip: Callable[..., Tensor], mesh: DeviceMesh, dtype: torch.dtype = torch.float64
) -> dict[str, Any]:
    """The norms of a few clipped steps, the gradients they are of, and the parameters after."""
    module = sharded(model(dtype), mesh)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5, momentum=0.9)
    norms, gradients, batch = [], [], words(mesh)
    for _ in range(STEPS):
        optimizer.zero_grad()
        module(batch).square().mean().backward()
        gradients.append([p.grad.full_tensor().clone() for p in module.parameters()])
        norms.append(clip(module.parameters(), BOUND).full_tensor().item())
        optimizer.step()
    return {
        "norms": norms,
        "gradients": gradients,
        "parameters": [p.full_tensor().detach() for p in module.parameters()],
    }


def published_1d(mesh: DeviceMesh) -> dict[str, Any]:
    """FSDP2 beside a replicated model, for the orders that torch's test takes."""
    return {str(float(p)): _beside_replicas(model(), p, mesh) for p in (2, 1, math.inf)}


def published_2d(mesh: DeviceMesh) -> dict[str, Any]:
    """FSDP2 over tensor parallelism beside a replicated model."""
    seen = {}
    for p in (2, 1, 3, math.inf):
        module = model()
        for child in module:
            if isinstance(child, Block):
                plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
                parallelize_module(child, mesh["inner"], plan)
        seen[str(float(p))] = _beside_replicas(module, p, mesh["outer"])
    return seen


def _beside_replicas(module: nn.Sequential, p: float, mesh: DeviceMesh) -> dict[str, Any]:
    """What `_test_clip_grad_norm` compares: norms, and gradients before and after clipping.

    The gradients rounded to float32 are measured as well, which most models train in.
    """
    replica = DistributedDataParallel(model(), process_group=mesh.get_group())
    module = sharded(module, mesh)
    batch = words(mesh)
    seen: dict[str, Any] = {}
    for each in (replica, module):
        (100 * each(batch)).sum().backward()
    parameters = [*module.parameters()]
    seen["placements"] = [str(parameter.placements) for parameter in parameters]
    seen["true"] = [parameter.grad.clone() for parameter in replica.parameters()]
    seen["full"] = [parameter.grad.full_tensor().clone() for parameter in parameters]
    seen["before"] = [parameter.grad.to_local().clone() for parameter in parameters]
    narrow = [parameter.grad.to(torch.float32) for parameter in parameters]
    seen["full narrow"] = [grad.full_tensor() for grad in narrow]
    ours = gt.get_total_norm(narrow, p, dtype=torch.float64)
    seen["ours narrow"] = ours.full_tensor().item()
    theirs = torch.nn.utils.get_total_norm(seen["true"], p)
    ours = gt.clip_grad_norm_(parameters, 1.0, p, foreach=True)
    seen["theirs"], seen["ours"] = theirs.item(), ours.full_tensor().item()
    seen["after"] = [parameter.grad.to_local().clone() for parameter in parameters]
    return copy.deepcopy(seen)
