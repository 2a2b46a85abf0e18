"""Shards of torch's writer for Hugging Face: what it leaves is read, and what does not fit is not.

`tests/laws/test_shards.py` has any boxes.
"""

from __future__ import annotations

import json
import math
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
import torch.distributed.checkpoint as dcp
from cuttings import part_of
from dumps import write_safetensors
from shards import shard_name, write_shard, write_shards

import gradtool
from gradtool.core.names import every_name
from gradtool.core.shapes.boxes import Box
from gradtool.formats import Opening, open_checkpoint

ARRAY = np.arange(24, dtype=np.float32).reshape(6, 4)
TOP, BOTTOM = Box((0, 0), (3, 4)), Box((3, 0), (3, 4))


def two_shards(directory: Path, *boxes: Box) -> Path:
    """A shard for each box of one tensor."""
    return write_shards(directory, [{"w": (box, part_of(ARRAY, box))} for box in boxes])


def refusal(path: Path) -> str:
    """The line that says why a directory is not read, whichever filter it is read with."""
    lines = set()
    for wanted in (every_name, frozenset[str]().__contains__):
        with pytest.raises(gradtool.InputError) as caught:
            open_checkpoint(str(path), Opening(wanted=wanted))
        assert caught.value.exit_code == 3
        lines.add(str(caught.value))
    (line,) = lines
    assert "\n" not in line
    return line


def test_what_its_writer_leaves_is_read(tmp_path: Path) -> None:
    state = {"a.w": torch.randn(3, 5), "b": torch.randn(4), "step": torch.tensor(3)}
    numbers = {"a.w": 1, "b": 2, "step": 2}
    writer = dcp.HuggingFaceStorageWriter(str(tmp_path / "run"), numbers, save_distributed=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.save(state, storage_writer=writer, no_dist=True)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {shard_name(1, 1, 2), shard_name(1, 2, 2)}
    found = gradtool.measure(tmp_path / "run")
    assert found.format == "hf_dcp"
    assert {tensor.name: tensor.spec.shape for tensor in found.tensors} == {
        "a.w": (3, 5),
        "b": (4,),
    }
    assert [item.name for item in found.skipped] == ["step"]
    for tensor in found.tensors:
        exact = torch.linalg.vector_norm(state[tensor.name].double()).item()
        assert tensor.norm == pytest.approx(exact, rel=1e-12)


def test_sections_and_skipped_tensors_are_those_of_all_shards_together(tmp_path: Path) -> None:
    left, right = Box((0,), (2,)), Box((2,), (2,))
    ones = np.ones(2, np.float32)
    write_shards(
        tmp_path / "run",
        [{"model.w": (left, ones), "optimizer.w": (left, ones)}, {"model.w": (right, ones)}],
    )
    noted = {"DCP_SHARDING_INFO": json.dumps({"optimizer.w": {"saved_offsets": [2]}})}
    whole = {"optimizer.w": ("F32", ones)}
    write_safetensors(tmp_path / "run" / shard_name(3), whole, noted)
    checkpoint = open_checkpoint(str(tmp_path / "run"))
    sections = {spec.name: spec.section for spec in checkpoint.tensors}
    assert sections == {"model.w": "model", "optimizer.w": "optimizer"}
    assert {part.section for part in checkpoint.stored} == {"model", "optimizer"}
    assert checkpoint.section_kinds == {"model": "weights", "optimizer": "optimizer"}
    found = gradtool.measure(tmp_path / "run", section="model")
    assert [tensor.norm for tensor in found.tensors] == [2.0]


def test_an_integer_in_parts_is_listed_once(tmp_path: Path) -> None:
    for rank in range(2):
        noted = {"DCP_SHARDING_INFO": json.dumps({"ids": {"saved_offsets": [2 * rank]}})}
        (tmp_path / "run").mkdir(exist_ok=True)
        held = {"ids": ("I64", np.arange(2))}
        write_safetensors(tmp_path / "run" / shard_name(rank + 1), held, noted)
    (item,) = open_checkpoint(str(tmp_path / "run")).skipped
    assert (item.name, item.reason) == ("ids", "integer")


def test_what_a_filter_leaves_out_has_its_name_in_the_catalogue(tmp_path: Path) -> None:
    run = two_shards(tmp_path / "run", TOP, BOTTOM)
    checkpoint = open_checkpoint(str(run), Opening(wanted=frozenset[str]().__contains__))
    assert (checkpoint.tensors, checkpoint.left_out) == ((), ("w",))


def test_boxes_that_do_not_make_up_a_tensor_are_refused_by_name(tmp_path: Path) -> None:
    run = two_shards(tmp_path / "overlap", TOP, Box((2, 0), (4, 4)))
    assert "'w': its boxes [0:3, 0:4] and [2:6, 0:4] overlap" in refusal(run)
    run = two_shards(tmp_path / "hole", TOP, Box((4, 0), (2, 4)))
    assert "'w': its boxes hold 20 of its 24 elements" in refusal(run)


def test_a_box_that_two_ranks_hold_is_the_same_in_both(tmp_path: Path) -> None:
    run = two_shards(tmp_path / "twice", TOP, BOTTOM, BOTTOM)
    found = gradtool.measure(run)
    assert (found.replicas, found.tensors[0].norm) == (
        1,
        math.sqrt(math.fsum(ARRAY.ravel() ** 2.0)),
    )
    other = part_of(ARRAY, BOTTOM).copy()
    other[1, 2] += 1
    write_shard(run / shard_name(3), {"w": (BOTTOM, other)})
    with pytest.raises(
        gradtool.RanksDifferError, match=r"'w': 1 element.*first at \[4, 2\]"
    ) as error:
        gradtool.measure(run)
    assert shard_name(3) in str(error.value)


def test_parts_of_different_tensors_are_refused_by_name(tmp_path: Path) -> None:
    run = two_shards(tmp_path / "run", TOP, BOTTOM)
    noted = {"DCP_SHARDING_INFO": json.dumps({"w": {"saved_offsets": [6, 0]}})}
    write_safetensors(run / shard_name(3), {"w": ("F16", np.ones((1, 4), np.float16))}, noted)
    assert "'w': its type is F32" in refusal(run)
    write_shard(run / shard_name(3), {"w": (Box((6,), (4,)), np.ones(4, np.float32))})
    assert "'w': its number of dimensions is 2" in refusal(run)


def test_a_number_that_is_missing_is_named(tmp_path: Path) -> None:
    def grid(name: str, *, cut: bool) -> Path:
        """Two tensors in a file each, of two shards: both in parts, or one in each shard."""
        (tmp_path / name).mkdir()
        for shard, box in ((1, TOP), (2, BOTTOM)):
            for number in (1, 2) if cut else (shard,):
                held = {f"w.{number}": (box if cut else Box((0, 0), (3, 4)), part_of(ARRAY, box))}
                write_shard(tmp_path / name / shard_name(shard, number, 2), held)
        return tmp_path / name

    assert len(gradtool.measure(grid("replicated", cut=False)).tensors) == 2
    for gone in [shard_name(shard, number, 2) for shard in (1, 2) for number in (1, 2)]:
        run = grid(f"without-{gone}", cut=True)
        (run / gone).unlink()
        assert f"{gone!r} is missing" in refusal(run)
    run = two_shards(tmp_path / "shards", *(Box((2 * i, 0), (2, 4)) for i in range(3)))
    for gone in map(shard_name, (1, 2)):
        copy = shutil.copytree(run, tmp_path / f"shards-without-{gone}")
        (copy / gone).unlink()
        assert f"{gone!r} is missing: 2 of at least 3 shards" in refusal(copy)
    run = grid("no-second", cut=True)
    for shard in (1, 2):
        (run / shard_name(shard, 2, 2)).unlink()
    assert f"{shard_name(1, 2, 2)!r} is missing" in refusal(run)


def test_that_the_last_shard_may_be_missing_is_said(tmp_path: Path) -> None:
    run = two_shards(tmp_path / "run", TOP, BOTTOM)
    (run / shard_name(2)).unlink()
    assert "no file says how many shards there are" in str(gradtool.measure(run).notes)


def test_other_tensors_beside_the_shards_are_refused(tmp_path: Path) -> None:
    run = two_shards(tmp_path / "run", TOP, BOTTOM)
    (run / "config.json").write_text("{}")
    (run / "logs").mkdir()
    assert "logs/" in str(gradtool.measure(run).notes)
    safetensors.numpy.save_file({"w": ARRAY}, run / "model.safetensors")
    assert "'model.safetensors' beside the shards" in refusal(run)
    (run / "model.safetensors").rename(run / shard_name(1, 1, 2))
    assert "two checkpoints are mixed" in refusal(run)


@pytest.mark.parametrize(
    ("noted", "problem"),
    [
        (None, "says nothing of the boxes"),
        ("{}", "no offsets for its 2 dimensions"),
        ('{"w": {"saved_offsets": [0]}}', "no offsets for its 2 dimensions"),
        ('{"w": {"saved_offsets": [0, -1]}}', "no offsets for its 2 dimensions"),
        ('{"w": {"saved_offsets": [0, true]}}', "no offsets for its 2 dimensions"),
        ('{"w": {"saved_offsets": [0, 9223372036854775808]}}', "no offsets for its 2 dimensions"),
        ('{"w": {"saved_offsets": [0, 4611686018427387904]}}', "boxes hold 24 of its"),
        ('{"w": {"saved_offsets": [0, 0]}, "v": {"saved_offsets": [0]}}', "no such tensor"),
        ('{"w": {"saved_offsets": [0, 0]}, "w": {"saved_offsets": [0, 0]}}', "duplicate key"),
        ("[", "DCP_SHARDING_INFO is not valid JSON"),
        ("[]", "DCP_SHARDING_INFO is no JSON object"),
    ],
)
def test_offsets_that_are_none_are_refused(noted: str | None, problem: str, tmp_path: Path) -> None:
    metadata = None if noted is None else {"DCP_SHARDING_INFO": noted}
    write_safetensors(tmp_path / shard_name(1), {"w": ("F32", ARRAY)}, metadata)
    assert problem in refusal(tmp_path)


def test_many_boxes_that_no_cut_sets_apart_are_refused(tmp_path: Path) -> None:
    """A spiral: every ring of four boxes holds together, and all within it."""
    size = 81
    boxes = [Box((40, 40), (1, 1))]
    for ring in range(40):
        long, last = size - 2 * ring - 1, size - ring - 1
        boxes += [Box((ring, ring), (1, long)), Box((ring, last), (long, 1))]
        boxes += [Box((last, ring + 1), (1, long)), Box((ring + 1, ring), (long, 1))]
    for number, box in enumerate(boxes, 1):
        write_shard(tmp_path / shard_name(number), {"w": (box, np.ones(box.sizes, np.float32))})
    assert "'w': is cut into 161 boxes in no grid" in refusal(tmp_path)
