"""The data of `directories`: checkpoints of many files, each made by the library that writes such.

    python -m benchmarks.files.checkpoints DIRECTORY SIZE_GIB

makes what is not there yet: the large float32 dump of `dumps`, and the same as a distributed
checkpoint of torch (DCP) by four ranks; small tensors as two more of those; 200 shards.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.checkpoint import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from benchmarks.files.dumps import large_paths, make_large

RANKS = 4
FEW, MANY = 34_704, 138_816
"""Chunks of the DCP directories of small tensors: one of each tensor in each rank."""

SHARDS, SHARDED_TENSORS = 200, 90_000

State = dict[str, DTensor]


def large_dcp_path(directory: Path, size_gib: float) -> Path:
    """Where the large dump is as DCP."""
    return directory / f"dcp_{size_gib:g}gib"


def small_dcp_path(directory: Path, chunks: int) -> Path:
    """Where the small tensors are that have so many chunks in DCP."""
    return directory / f"dcp_{chunks}_chunks"


def shards_path(directory: Path) -> Path:
    """Where the shards and their index are."""
    return directory / "shards"


def of_file(source: Path) -> State:
    """The tensors of a safetensors file, cut along their first dimension as FSDP2 does."""
    with safe_open(source, "torch") as file:
        return {name: _cut(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118


def of_small_tensors(chunks: int) -> State:
    """Tensors of 16 elements, as many as have so many chunks."""
    whole = torch.arange(16.0).reshape(RANKS, 4)
    return {f"layers.{n // 10}.w{n % 10}": _cut(whole) for n in range(chunks // RANKS)}


def _cut(whole: torch.Tensor) -> DTensor:
    mesh = init_device_mesh("cpu", (RANKS,))
    # Each rank has the whole tensor: none is sent.
    return distribute_tensor(whole, mesh, [Shard(0)], src_data_rank=None)


def make_dcp(path: Path, state: Callable[[], State]) -> None:
    """Have four processes write what each has of a state."""
    if path.exists():
        return
    partial_path = path.with_suffix(".partial")
    with tempfile.TemporaryDirectory() as meeting:
        work = (Path(meeting) / "store", partial_path, state)
        mp.spawn(_rank, work, nprocs=RANKS)
    os.replace(partial_path, path)


def _rank(rank: int, store: Path, path: Path, state: Callable[[], State]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    save(state(), checkpoint_id=path)
    dist.destroy_process_group()


def make_shards(directory: Path) -> None:
    """90,000 tensors of 1,000 elements in 200 shards with an index, as Hugging Face cuts models."""
    place = shards_path(directory)
    if (place / "model.safetensors.index.json").exists():
        return
    place.mkdir(exist_ok=True)
    random = torch.Generator().manual_seed(3)
    weight_map: dict[str, str] = {}
    for shard in range(SHARDS):
        name = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        numbers = range(shard, SHARDED_TENSORS, SHARDS)
        values = torch.randn(len(numbers), 1000, generator=random) * 1e-3
        tensors = {
            f"model.layers.{number}.weight": value.clone()
            for number, value in zip(numbers, values, strict=True)
        }
        save_file(tensors, place / name)
        weight_map |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": SHARDED_TENSORS * 4000}, "weight_map": weight_map}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))


def main() -> None:
    """Make what is missing."""
    directory, size_gib = Path(sys.argv[1]), float(sys.argv[2])
    make_large(directory, size_gib, ["float32"])
    large = large_paths(directory, size_gib, ["float32"])["float32"]
    make_dcp(large_dcp_path(directory, size_gib), partial(of_file, large))
    for chunks in (FEW, MANY):
        make_dcp(small_dcp_path(directory, chunks), partial(of_small_tensors, chunks))
    make_shards(directory)


if __name__ == "__main__":
    main()
