"""Directories of no layout that is read: one line with the nearest one, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from distcp import Item, shard_file, write_distcp
from safetensors.numpy import save_file
from shards import shard_name, write_shards

import gradtool
from gradtool.core.shapes.boxes import Box

WHOLE = torch.arange(24, dtype=torch.float32).reshape(6, 4)
RANKS = [[Item("w", Box((start, 0), (2, 4)))] for start in (0, 2, 4)]


def refusal(path: Path) -> str:
    with pytest.raises(gradtool.InputError) as caught:
        gradtool.measure(path)
    line = str(caught.value)
    assert caught.value.exit_code == 3
    assert "\n" not in line
    return line


def test_the_file_of_a_rank_that_the_metadata_do_not_know_is_said_in_any_case(
    tmp_path: Path,
) -> None:
    write_distcp(tmp_path, {"w": WHOLE}, RANKS)
    (tmp_path / "__1_7.distcp").write_bytes(b"of an earlier save")
    assert gradtool.measure(tmp_path).essential_notes == ()
    for rank in (3, 10):
        (tmp_path / shard_file(rank)).write_bytes((tmp_path / shard_file(0)).read_bytes())
    found = gradtool.measure(tmp_path)
    assert [one.name for one in found.tensors] == ["w"]
    (note,) = found.essential_notes
    assert "__3_0.distcp, __10_0.distcp" in note
    assert "ranks 3, 10" in note
    assert "`.metadata`" in note
    assert "not read: __1_7.distcp" in found.notes


def test_metadata_of_each_rank_are_not_those_of_all(tmp_path: Path) -> None:
    """As `dcp.save(..., use_collectives=False)` leaves them."""
    write_distcp(tmp_path, {"w": WHOLE}, RANKS)
    (tmp_path / ".metadata").rename(tmp_path / "__0.metadata")
    line = refusal(tmp_path)
    assert "__0.metadata" in line
    assert "use_collectives=False" in line
    for file in tmp_path.glob("*.distcp"):
        file.unlink()
    assert "*.distcp" in refusal(tmp_path)


@pytest.mark.parametrize("backend", ["zarr", "torch_dist"])
def test_what_is_left_of_a_megatron_checkpoint_is_not_its_common_file(
    tmp_path: Path, backend: str
) -> None:
    torch.save({"iteration": 5, "rng": torch.ones(3)}, tmp_path / "common.pt")
    noted = {"sharded_backend": backend, "sharded_backend_version": 1}
    (tmp_path / "metadata.json").write_text(json.dumps(noted))
    line = refusal(tmp_path)
    assert "Megatron" in line
    assert repr(backend) in line
    assert "torch_dcp" in line
    assert "`.metadata`" in line
    assert gradtool.measure(tmp_path / "common.pt").tensors
    write_distcp(tmp_path, {"w": WHOLE}, RANKS)
    assert gradtool.measure(tmp_path).format == "torch_dcp"


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON", '{"sharded_backend": 3}'])
def test_a_common_file_beside_metadata_of_others_is_a_file(tmp_path: Path, text: str) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / "common.pt")
    (tmp_path / "metadata.json").write_text(text)
    assert gradtool.measure(tmp_path).format == "torch"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["trainer_state.json", "optimizer.json"], "model.safetensors"),
        (["config.json", "tokenizer.json"], "model.safetensors"),
        (["adapter_config.json"], "adapter_model.safetensors"),
        (["latest_checkpointed_iteration.txt"], "iter_"),
        (["zero_to_fp32.py"], "global_step"),
        ([".zgroup", "zarr.json"], "Zarr"),
        (["saved_model.pb"], "TensorFlow"),
        (["loss.log", "events"], "events, loss.log"),
    ],
)
def test_a_directory_without_tensors_says_what_it_is_nearest_to(
    tmp_path: Path, names: list[str], words: str
) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    line = refusal(tmp_path)
    assert "holds no tensor file" in line
    assert words in line


def test_a_file_of_shards_that_is_missing_may_never_have_been_written(tmp_path: Path) -> None:
    """HSDP has one rank write each part: what torch 2.13 leaves of a mesh of 2 by 2."""
    boxes = [Box((0, 0), (3, 4)), Box((3, 0), (3, 4))]
    one, other = ({"a": (box, np.ones(box.sizes, np.float32))} for box in boxes)
    write_shards(tmp_path / "run", [one, other, {"b": (boxes[0], np.ones((3, 4), np.float32))}])
    (tmp_path / "run" / shard_name(2)).rename(tmp_path / "run" / shard_name(4))
    line = refusal(tmp_path / "run")
    assert f"{shard_name(2)!r} is missing" in line
    assert "HSDP" in line
    assert "consolidate" in line


def test_orbax_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "_CHECKPOINT_METADATA").write_text("{}")
    save_file({"a": np.ones(1, np.float32)}, tmp_path / "a.safetensors")
    assert "Orbax" in refusal(tmp_path)
