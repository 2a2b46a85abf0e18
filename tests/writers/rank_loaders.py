"""Files of several ranks read back whole: torch reads each, and says where its parts belong.

torch unpickles a ShardedTensor only in the rank that wrote it. A process group of the kind "fake"
lets this process be each of them in turn; nobody is spoken to.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

Tensors = dict[str, Tensor]


def torch_ranks(path: str) -> Tensors:
    """The tensors of a directory with a torch file for each rank.

    Raises ValueError where two ranks hold different values of one element, or nobody holds it.
    """
    files = in_order_of_ranks(path)
    whole: Tensors = {}
    seen: Tensors = {}
    for rank, file in enumerate(files):
        with _as_rank(rank, len(files)):
            for name, value in _of_rank(file).items():
                for indices, part in _parts(value):
                    shape = value.size() if isinstance(value, ShardedTensor) else value.shape
                    into = whole.setdefault(name, part.new_zeros(shape)).view(-1)
                    held = seen.setdefault(name, torch.zeros(shape, dtype=torch.bool)).view(-1)
                    again = indices[held[indices]]
                    before = into[again].clone()
                    into[indices] = part.reshape(-1)
                    if not torch.equal(before, into[again]):
                        raise ValueError(f"{name}: rank {rank} has other values")
                    held[indices] = True
    for name, held in seen.items():
        if not held.all():
            raise ValueError(f"{name}: nobody has some elements")
    return whole


def dump_ranks(path: str) -> Tensors:
    """The gradients that `dump_gradients` wrote on each of the ranks of a row (FSDP2)."""
    parts: dict[str, list[Tensor]] = {}
    split: set[str] = set()
    for file in in_order_of_ranks(path):
        with safe_open(file, framework="pt") as dump:
            split |= json.loads((dump.metadata() or {}).get("gradtool.shards", "{}")).keys()
            for name in dump.keys():  # noqa: SIM118 - it is no dict
                parts.setdefault(name, []).append(dump.get_tensor(name))
    return {name: torch.cat(each) if name in split else each[0] for name, each in parts.items()}


def in_order_of_ranks(path: str) -> list[str]:
    """The files of a directory, by the last number in their names."""
    names = sorted(os.listdir(path), key=lambda name: int(re.findall(r"\d+", name)[-1]))
    return [os.path.join(path, name) for name in names]


@contextmanager
def _as_rank(rank: int, world: int) -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _of_rank(file: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(file, weights_only=False)
    return found


def _parts(value: Tensor | ShardedTensor) -> Iterator[tuple[Tensor, Tensor]]:
    """What this rank holds: where its elements lie in the whole, flattened, and the elements."""
    if isinstance(value, ShardedTensor):
        numbers = torch.arange(value.size().numel()).view(value.size())
        for shard in value.local_shards():
            places = zip(shard.metadata.shard_offsets, shard.metadata.shard_sizes, strict=True)
            box = tuple(slice(start, start + size) for start, size in places)
            yield numbers[box].reshape(-1), shard.tensor
        return
    numbers = torch.arange(value.numel()).view(value.shape)
    if isinstance(value, DTensor):
        # Numbers that torch itself cuts as it cut the tensor tell which elements are here.
        cut = distribute_tensor(numbers, value.device_mesh, value.placements, src_data_rank=None)
        yield cut.to_local().reshape(-1), value.to_local()
    else:
        yield numbers.view(-1), value
