"""DeepSpeed's universal checkpoints, as `ds_to_universal.py` of 0.19.8 writes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from layouts.zero.zeros import model_name, some
from oracle import close
from torch import Tensor

import gradtool


def write(folder: Path, *, stage: int = 1) -> dict[str, Tensor]:
    """Write one; give what it holds of parameters."""
    zero = some(stage=stage)
    folder.mkdir()
    for rank in range(2 if stage == 3 else 1):
        torch.save(zero.model(rank), folder / model_name(rank if stage == 3 else None))
    for name, tensor in zero.whole.items():
        parameter, what = name.removeprefix("optimizer.state.").rsplit(".", 1)
        file = folder / "zero" / parameter / f"{'fp32' if what == 'master' else what}.pt"
        file.parent.mkdir(parents=True, exist_ok=True)
        # Of stage 3 there are no shapes.
        kept = tensor.flatten().clone() if stage == 3 else {"cat_dim": 0, "param": tensor.clone()}
        torch.save(kept, file)
    torch.save({"param_groups": [{"lr": 0.1}]}, folder / "zero" / "optimizer_state.pt")
    return zero.whole


@pytest.mark.parametrize("stage", [1, 3])
def test_every_parameter_has_its_name_shape_and_section(tmp_path: Path, stage: int) -> None:
    whole = write(tmp_path / "one", stage=stage)
    found = gradtool.measure(tmp_path / "one")
    assert (found.format, found.step) == ("ds_universal", 4)
    tensors = {one.name: one for one in found.tensors if one.spec.section.startswith("optimizer")}
    assert tensors.keys() == whole.keys()
    for name, tensor in whole.items():
        assert tensors[name].spec.shape == tuple(tensor.shape)
        assert tensors[name].spec.section == f"optimizer.{name.rpartition('.')[2]}"
        assert close(tensors[name].norm, float(torch.linalg.vector_norm(tensor.double())))


def test_what_the_optimizer_does_not_have_is_other(tmp_path: Path) -> None:
    write(tmp_path / "one")
    (tmp_path / "one" / "zero" / "mean").mkdir()
    torch.save({"param": torch.ones(3)}, tmp_path / "one" / "zero" / "mean" / "fp32.pt")
    found = {one.name: one.spec.section for one in gradtool.measure(tmp_path / "one").tensors}
    assert found["optimizer.state.mean.master"] == "other"


@pytest.mark.parametrize("name", ["a.bias/fp32.pt", "a.weight/exp_avg.pt"])
def test_a_file_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path / "one")
    (tmp_path / "one" / "zero" / name).unlink()
    with pytest.raises(gradtool.MissingShardError, match=name):
        gradtool.measure(tmp_path / "one")


def test_a_parameter_that_never_had_a_gradient_has_weights_alone(tmp_path: Path) -> None:
    write(tmp_path / "one")
    for what in ("exp_avg", "exp_avg_sq"):
        (tmp_path / "one" / "zero" / "a.bias" / f"{what}.pt").unlink()
    names = {one.name for one in gradtool.measure(tmp_path / "one").tensors}
    assert "optimizer.state.a.bias.master" in names
    assert "optimizer.state.a.bias.exp_avg" not in names


def test_a_file_of_several_tensors_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "one")
    file = tmp_path / "one" / "zero" / "a.bias" / "fp32.pt"
    torch.save({"param": torch.ones(7), "more": torch.ones(7)}, file)
    with pytest.raises(gradtool.CorruptFileError, match="2 tensors") as caught:
        gradtool.measure(tmp_path / "one")
    assert caught.value.path == str(file)


def test_it_is_clipped_where_it_lies(tmp_path: Path) -> None:
    write(tmp_path / "one")
    out = tmp_path / "out"
    gradtool.clip(tmp_path / "one", out, section="optimizer.exp_avg", max_norm=0.25)
    total = gradtool.measure(out, section="optimizer.exp_avg").total
    assert total is not None
    assert abs(total.norm - 0.25) < 1e-5
