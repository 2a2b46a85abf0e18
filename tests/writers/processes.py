"""Processes of one job on this machine, that speak gloo with each other."""

from __future__ import annotations

import os
import random
import tempfile
import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

Rank = Callable[[int, int], None]
"""What one of the processes does, given its number and how many there are."""


def seed() -> None:
    """Have all that is drawn here be drawn again the next time."""
    random.seed(15)
    np.random.seed(15)
    torch.manual_seed(15)
    torch.set_num_threads(1)


def run_ranks(work: Rank, world: int) -> None:
    """Run `work`, a function of a module, in `world` processes in this directory.

    What it writes beside the checkpoint is the first rank's to write.
    """
    with tempfile.TemporaryDirectory() as meeting:
        mp.spawn(_rank, (work, world, os.path.join(meeting, "store")), nprocs=world)


def _rank(rank: int, work: Rank, world: int, store: str) -> None:
    warnings.simplefilter("ignore")
    seed()
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",  # asked for, not used
    }
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        work(rank, world)
    finally:
        dist.destroy_process_group()
