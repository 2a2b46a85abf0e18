"""Gradients that are split over ranks: each rank dumps its part, and says whose it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from command_line import ENVIRONMENT
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import gradtool

if not torch.distributed.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)

SECONDS = 60
"""After which ranks hang."""

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"

RANK = """
import sys, torch, torch.distributed as dist
from datetime import timedelta
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from gradtool.errors import UsageError
from gradtool.torch import dump_gradients
import gradtool
rank, folder = int(sys.argv[1]), sys.argv[2]
store = f"file://{folder}/store"
dist.init_process_group("gloo", store, timedelta(seconds=30), world_size=2, rank=rank)
mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("data",))
full = torch.arange(15.0).reshape(5, 3)
split = torch.nn.Parameter(distribute_tensor(full, mesh, [Shard(0)]))
split.grad = distribute_tensor(full, mesh, [Shard(0)])
whole = torch.nn.Parameter(torch.zeros(2))
whole.grad = torch.tensor([rank + 1.0, 0.0])
pairs = [("split", split), ("whole", whole)]
try:
    dump_gradients(pairs, f"{folder}/dump.safetensors", step=7)
except UsageError as error:
    assert "put {rank} into the path" in str(error), error
else:
    raise AssertionError("one file for two ranks")
path = dump_gradients(pairs, f"{folder}/dump-{{rank}}.safetensors", step=7)
assert path == f"{folder}/dump-{rank}.safetensors", path
live = {t.name: t.norm for t in gradtool.measure(pairs).tensors}
assert {t.name: t.norm for t in gradtool.measure(path).tensors} == live
dist.destroy_process_group()
"""


@pytest.fixture
def two_ranks(tmp_path: Path) -> Iterator[Path]:
    """What two ranks have dumped; they do not outlive the test, however it ends."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path)],
            stderr=subprocess.PIPE,
            env={**ENVIRONMENT, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": LOOPBACK},
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [rank.communicate(timeout=SECONDS)[1] for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0, 0], said
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    yield tmp_path


def assert_loads(path: Path, grads: dict[str, Tensor]) -> None:
    loaded = load_file(path)
    assert loaded.keys() == grads.keys()
    assert all(torch.equal(loaded[name], grad) for name, grad in grads.items())


def test_each_of_two_ranks_writes_its_part_and_says_whose_it_is(two_ranks: Path) -> None:
    assert sorted(os.listdir(two_ranks)) == ["dump-0.safetensors", "dump-1.safetensors", "store"]
    full = torch.arange(15.0).reshape(5, 3)
    for rank, rows in enumerate((full[:3], full[3:])):
        path = two_ranks / f"dump-{rank}.safetensors"
        assert_loads(path, {"split": rows, "whole": torch.tensor([rank + 1.0, 0.0])})
        with safe_open(path, "pt") as opened:
            texts = {key: text for key, text in opened.metadata().items() if "." in key}
        assert texts.pop("gradtool.order") == "model"
        noted = {key: json.loads(text) for key, text in texts.items()}
        shards = noted.pop("gradtool.shards")
        facts = {"dump": 1, "step": 7, "rank": rank, "world_size": 2, "names": ["split", "whole"]}
        assert noted == {f"gradtool.{name}": fact for name, fact in facts.items()}
        assert shards["split"] == {
            "shape": [5, 3],
            "placements": [str(shards["split"]["placements"][0])],
            "mesh": [2],
            "mesh_dim_names": ["data"],
            "coordinate": [rank],
        }
        measurement = gradtool.measure(path)
        assert measurement.step == 7
        assert measurement.ranks == {(rank, 2)}
        assert measurement.notes == (f"1 tensor is the part of rank {rank} of 2",)
