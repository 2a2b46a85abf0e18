"""Two ranks under FSDP1 that dump their gradients: in pieces, put together, and never split.

torchrun --nproc-per-node 2 fsdp1_by_two.py DIRECTORY
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
from two_ranks import STEP, loss, net

import gradtool
from gradtool.integrations import GradientDumps


def trained(strategy: ShardingStrategy, *, names: bool) -> FullyShardedDataParallel:
    """The model after a backward pass; with `names` its parameters stay parameters."""
    device = torch.device("cpu")
    model = FullyShardedDataParallel(
        net(), sharding_strategy=strategy, use_orig_params=names, device_id=device
    )
    loss(model, dist.get_rank()).backward()
    return model


def refusal(model: FullyShardedDataParallel, directory: Path) -> str:
    """What is said of a dump, and of a measurement, in the same words."""
    errors = []
    for attempt in (
        lambda: GradientDumps(directory, every=1, on_error="raise").before_clipping(
            model.module, step=STEP
        ),
        lambda: gradtool.measure(model.module),
    ):
        try:
            attempt()
        except gradtool.UsageError as error:
            errors.append(str(error))
    (told,) = {*errors} if len(errors) == 2 else {f"{len(errors)} refused: {errors}"}
    return told


def main(folder: Path) -> None:
    """One of the ranks."""
    dist.init_process_group("gloo")
    warnings.simplefilter("ignore")
    model = trained(ShardingStrategy.FULL_SHARD, names=True)
    flat = trained(ShardingStrategy.FULL_SHARD, names=False)
    told = [refusal(model, folder / "pieces"), refusal(flat, folder / "flat")]
    (folder / f"told{dist.get_rank()}.txt").write_text("\n".join(told))
    with FullyShardedDataParallel.summon_full_params(model, with_grads=True):
        GradientDumps(folder / "whole", every=1, on_error="raise").before_clipping(model, step=STEP)
    copies = trained(ShardingStrategy.NO_SHARD, names=True)
    GradientDumps(folder / "copies", every=1, on_error="raise").before_clipping(copies, step=STEP)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
