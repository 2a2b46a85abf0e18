"""Runs of DeepSpeed: `latest`, the folders of steps, and what trainers put beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from layouts.zero.zeros import some
from safetensors.torch import save_file

import gradtool


@pytest.mark.parametrize("name", ["global_step9", "", "../elsewhere", ".", "a/b", "\0", "x" * 9000])
def test_a_latest_that_names_no_folder_is_an_error(tmp_path: Path, name: str) -> None:
    some().write(tmp_path / "run" / "global_step4")
    some().write(tmp_path / "elsewhere")
    (tmp_path / "run" / "latest").write_text(name)
    with pytest.raises(gradtool.CorruptFileError, match="which is no folder") as caught:
        gradtool.measure(tmp_path / "run")
    assert str(caught.value).startswith(str(tmp_path / "run" / "latest"))
    assert "\n" not in str(caught.value)
    assert gradtool.measure(tmp_path / "run" / "global_step4", section="model").step == 4


def test_the_only_step_is_the_checkpoint(tmp_path: Path) -> None:
    some().write(tmp_path / "global_step4")
    (tmp_path / "latest").write_text("global_step4\n")
    torch.save({"states": torch.zeros(3, dtype=torch.uint8)}, tmp_path / "rng_state_0.pth")
    (tmp_path / "logs").mkdir()
    found = gradtool.measure(tmp_path)
    assert (found.format, found.path) == ("deepspeed", str(tmp_path))
    assert any("rng_state_0.pth" in note for note in found.notes)


def test_several_are_the_steps_of_a_run(tmp_path: Path) -> None:
    for step in (10, 9):
        noted = {"global_steps": step}
        some().write(tmp_path / f"global_step{step}", model=lambda module: module.update(noted))  # noqa: B023
    (tmp_path / "latest").write_text("global_step10")
    with pytest.raises(gradtool.SeveralCheckpointsError) as listed:
        gradtool.measure(tmp_path)
    assert listed.value.kind == "run"
    assert [(one.step, one.layout) for one in listed.value.found] == [
        (9, "deepspeed"),
        (10, "deepspeed"),
    ]


def test_weights_that_a_trainer_saved_beside_it_are_the_checkpoint(tmp_path: Path) -> None:
    some().write(tmp_path / "global_step4")
    (tmp_path / "latest").write_text("global_step4")
    save_file({"a.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    found = gradtool.measure(tmp_path)
    assert [one.name for one in found.tensors] == ["a.weight"]
    assert any("global_step4/" in note for note in found.essential_notes)
