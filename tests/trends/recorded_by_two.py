"""Two ranks that record one run, and the same run by one process.

torchrun --nproc-per-node 2 recorded_by_two.py ddp|fsdp2 FOLDER
"""

from __future__ import annotations

import math
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from gradtool.torch import Recorder


def net() -> nn.Sequential:
    """The same on both ranks, in float64, of sizes that two do not divide."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def loss(model: nn.Module, rank: int, step: int) -> torch.Tensor:
    """That of the rank's own inputs; in step 2 all gradients are NaN."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    inputs = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    found: torch.Tensor = model(inputs).square().mean()
    return found * math.nan if step == 2 else found


def main(wrapper: str, folder: str) -> None:
    """One of the ranks."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model = net()
    wrapped: nn.Module = model
    if wrapper == "ddp":
        wrapped = nn.parallel.DistributedDataParallel(model)
    else:
        mesh = init_device_mesh("cpu", (2,))
        for module in (model[0], model[2], model):
            fully_shard(module, mesh=mesh)
    with Recorder(model, f"{folder}/run.rows") as recorder:
        for step in (1, 2):
            model.zero_grad()
            loss(wrapped, rank, step).backward()
            recorder.before_clipping(step=step)
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        alone = net()
        with Recorder(alone, f"{folder}/alone.rows", dump_on="") as recorder:
            for step in (1, 2):
                alone.zero_grad()
                (loss(alone, 0, step) / 2 + loss(alone, 1, step) / 2).backward()
                recorder.before_clipping(step=step)


if __name__ == "__main__":
    main(*sys.argv[1:])
