"""Two ranks that dump their gradients at the end of one backward pass, and the whole's norm.

torchrun --nproc-per-node 2 two_ranks.py ddp|fsdp2 DIRECTORY
"""

from __future__ import annotations

import math
import sys

import torch
import torch.distributed as dist
from torch import nn

from gradtool.integrations import GradientDumps
from gradtool.torch._backward import BackwardWatch

STEP = 3


def net() -> nn.Sequential:
    """The same on both ranks, in float64, of sizes that two do not divide."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def loss(model: nn.Module, rank: int) -> torch.Tensor:
    """That of the rank's own inputs."""
    generator = torch.Generator().manual_seed(1 + rank)
    inputs = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    found: torch.Tensor = model(inputs).square().mean()
    return found


def expected_norm() -> float:
    """The norm of the mean of both ranks' gradients, by one process and `math.fsum`."""
    model = net()
    (loss(model, 0) / 2 + loss(model, 1) / 2).backward()
    grads = [each.grad for each in model.parameters() if each.grad is not None]
    return math.sqrt(math.fsum(x * x for grad in grads for x in grad.flatten().tolist()))


def main(wrapper: str, directory: str) -> None:
    """One of the ranks."""
    dist.init_process_group("gloo")
    model = net()
    wrapped: nn.Module = model
    if wrapper == "ddp":
        # Small buckets: all but the last are on their way before the pass ends.
        wrapped = nn.parallel.DistributedDataParallel(model, bucket_cap_mb=1e-4)
    else:
        from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415
        from torch.distributed.fsdp import fully_shard  # noqa: PLC0415

        mesh = init_device_mesh("cpu", (2,))
        for module in (model[0], model[2], model):
            fully_shard(module, mesh=mesh)
    dumps = GradientDumps(directory, every=1, on_error="raise")
    BackwardWatch(model.parameters(), lambda: _dump(dumps, model))
    loss(wrapped, dist.get_rank()).backward()
    dist.destroy_process_group()


def _dump(dumps: GradientDumps, model: nn.Module) -> None:
    dumps.before_clipping(model, step=STEP)


if __name__ == "__main__":
    main(*sys.argv[1:])
