"""What is said of parts that are lost, unfinished or copied, and the order of what there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run as gradtool_command
from safetensors.numpy import save_file

import gradtool

A = np.float32([3.0, 4.0])


def dump(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"a": A}, path)
    return path


def test_steps_that_begin_anew_in_each_epoch_are_listed_epoch_by_epoch(tmp_path: Path) -> None:
    names = [f"epoch_{epoch}/step_{step}" for epoch in (1, 2) for step in (5, 10)]
    for name in names:
        dump(tmp_path / f"{name}.safetensors")
    expected = [str(tmp_path / f"{name}.safetensors") for name in names]
    for source in (tmp_path, f"{tmp_path}/*/*"):
        with pytest.raises(gradtool.SeveralCheckpointsError) as caught:
            gradtool.measure(source)
        assert [one.path for one in caught.value.found] == expected
        assert [one.path for one in gradtool.check(source).verdicts] == expected


def test_the_folder_of_a_rank_that_stopped_early_is_named(tmp_path: Path) -> None:
    for rank, step in ((0, 10), (0, 20), (1, 10)):
        dump(tmp_path / "f" / f"rank{rank}" / f"step_{step}.safetensors")
    found = gradtool_command("check", "f/*/*", cwd=tmp_path)
    assert found.returncode == 3
    assert "'rank1/step_20.safetensors' is missing" in found.stdout
    found = gradtool_command("check", "f", cwd=tmp_path)
    assert found.returncode == 3
    assert "rank1/step_20.safetensors is missing" in found.stdout
    assert "f: f/" not in found.stderr
    assert "f/rank*" not in found.stderr


def test_what_looks_like_a_copy_is_said_to_do_so(tmp_path: Path) -> None:
    for name in ("rank0", "rank1", "rank1 (1)"):
        dump(tmp_path / f"{name}.safetensors")
    for source in (tmp_path, f"{tmp_path}/*"):
        with pytest.raises(gradtool.GradtoolError):
            gradtool.measure(source)
        messages = [f.message for v in gradtool.check(source).verdicts for f in v.findings]
        assert any("rank1 (1).safetensors" in one and "a copy" in one for one in messages)


@pytest.mark.parametrize("content", [{}, {"grads": {}}])
def test_the_file_of_a_rank_without_a_tensor_is_no_rank(
    content: dict[str, object], tmp_path: Path
) -> None:
    torch.save({"a": torch.ones(4)}, tmp_path / "rank0.pt")
    torch.save(content, tmp_path / "rank1.pt")
    for source in (tmp_path, f"{tmp_path}/*"):
        with pytest.raises(gradtool.InputError, match="rank 1 holds no tensor"):
            gradtool.measure(source)
        assert gradtool.check(source).exit_code == 3


@pytest.mark.parametrize("name", ["checkpoint-1000.tmp", "tmp-checkpoint-1500"])
def test_folders_of_saves_that_are_not_finished_are_no_checkpoints(
    name: str, tmp_path: Path
) -> None:
    for folder in ("checkpoint-500", "checkpoint-750", name):
        dump(tmp_path / "run" / folder / "g.safetensors")
    expected = [500, 750]
    for source in ("run", "run/*", "run/*/*", "run/**/*.safetensors"):
        assert [v.step for v in gradtool.check(f"{tmp_path}/{source}").verdicts] == expected
    with pytest.raises(gradtool.SeveralCheckpointsError) as caught:
        gradtool.measure(tmp_path / "run")
    assert caught.value.likely is not None
    assert caught.value.likely.path.endswith("checkpoint-750")
    assert gradtool.measure(tmp_path / "run" / name).total.norm == 5.0
    assert gradtool.measure(f"{tmp_path}/run/{name[:-2]}*").total.norm == 5.0


def test_nothing_is_offered_to_be_read_where_nothing_can_be(tmp_path: Path) -> None:
    for step in (1, 2):
        path = tmp_path / "run" / f"step_{step}" / "g.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"garbage")
    for options in ([], ["-f", "markdown"]):
        found = gradtool_command("inspect", "run", *options, cwd=tmp_path)
        assert found.returncode == 2
        assert found.stdout.count("cannot be read") == 2
        assert "to read one" not in found.stdout
        assert "none of them can be read" in found.stderr
