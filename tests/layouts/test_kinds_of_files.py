"""The name of a file says what is in it, alone, in a directory and in a set: no sum of kinds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import gradtool
from gradtool.formats.file_kinds import told_by
from gradtool.torch import dump_gradients

G, W, M = ([3.0, 4.0], [5.0, 12.0], [8.0, 15.0])
"""Of norms 5, 13 and 17."""


def write(path: Path, tree: dict[str, list[float]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: torch.tensor(value) for name, value in tree.items()}
    if path.suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})  # type: ignore[arg-type]
    elif path.suffix == ".npy":
        np.save(path, next(iter(tensors.values())).numpy())
    else:
        (save_file if path.suffix == ".safetensors" else torch.save)(tensors, path)
    return path


def norms(source: object, **options: Any) -> dict[str, float | None]:
    """The norm of each section; what is neither has none."""
    found = gradtool.measure(source, **options)
    return {
        one.name: None if one.name == "other" else pytest.approx(one.norm, rel=1e-12)
        for one in found.sections
    }


PAIRS = [
    *(("grads_final", "model_final"), ("grads_step_10", "model_step_10")),
    *(("step_10_grads", "step_10_model"), ("my_grads", "my_model")),
    *(("grads_epoch1", "weights_epoch1"), ("grads.step10", "model.step10"), ("Grads", "Model")),
    *(("model_grads", "model_weights"), ("gradients-rank0", "params-rank0")),
    *(("model_gradients_step_3", "model_gradient_accumulation_step_3"),),
    *(("modelGrads", "modelWeights"), ("loss_grads_7", "model_lr1e-4_loss0.25")),
    ("grads_layer_0", "weights_layer_0"),
]


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".safetensors"])
@pytest.mark.parametrize(("grads", "model"), PAIRS)
def test_gradients_beside_weights_are_no_sum(
    grads: str, model: str, suffix: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    write(run / f"{grads}{suffix}", {"a.x": G})
    write(run / f"{model}{suffix}", {"b.x": W})
    assert norms(run) == {"grads": 5.0, "model": 13.0}
    assert gradtool.measure(run).total is None
    with pytest.raises(gradtool.UsageError, match="different kinds"):
        gradtool.clip(run, tmp_path / "out", max_norm=1.0)
    clipped = gradtool.clip(run, tmp_path / "out", max_norm=1.0, section="grads", eps=0)
    assert clipped.norm_before == 5.0
    assert norms(tmp_path / "out") == {"grads": pytest.approx(1.0, rel=1e-6), "model": 13.0}


def test_ranks_of_several_kinds_are_a_set_each(tmp_path: Path) -> None:
    for rank in range(2):
        write(tmp_path / f"grads_rank{rank}.pt", {"a.x": G})
        write(tmp_path / f"model_rank{rank}.pt", {"b.x": W})
        write(tmp_path / f"optimizer_rank{rank}.pt", {"c.exp_avg": M, "c.step": [1.0]})
    found = norms(tmp_path)
    assert found == {"grads": 5.0, "model": 13.0, "optimizer.exp_avg": 17.0, "other": None}


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".safetensors"])
def test_names_of_tensors_tell_what_is_beside_them(suffix: str, tmp_path: Path) -> None:
    tree = {"w": W, "w.grad": G, "w.exp_avg": M, "w.exp_avg_sq": [7.0, 24.0], "w.step": [9.0]}
    path = write(tmp_path / f"everything{suffix}", tree | {"loss": [2.0]})
    expected = {
        "model": 13.0,
        "grads": 5.0,
        "optimizer.exp_avg": 17.0,
        "optimizer.exp_avg_sq": 25.0,
        "other": None,
    }
    assert norms(path) == norms(path.parent) == expected
    in_memory = {name: torch.tensor(value) for name, value in tree.items()}
    assert norms(in_memory) == expected
    assert norms(path, include="w.grad") == {"grads": 5.0}


def test_what_a_tensor_is_called_in_one_file_tells_of_another(tmp_path: Path) -> None:
    write(tmp_path / "one.pt", {"w.grad": G, "v.grad": [0.0]})
    write(tmp_path / "two.pt", {"w": W})
    assert norms(tmp_path) == {"grads": 5.0, "model": 13.0}
    assert norms(tmp_path, include="*.grad") == {"grads": 5.0}


def test_within_a_section_as_well(tmp_path: Path) -> None:
    tree = {"model": {"w": torch.tensor(W), "w.grad": torch.tensor(G)}, "epoch": torch.ones(1)}
    torch.save(tree, tmp_path / "last.pt")
    assert norms(tmp_path / "last.pt") == {"model": 13.0, "grads": 5.0, "other": None}
    assert norms(write(tmp_path / "model.pt", {"w.grad": G, "v.grad": [0.0]})) == {"grads": 5.0}


def test_names_that_end_alike_tell_nothing_apart(tmp_path: Path) -> None:
    assert norms(write(tmp_path / "a.pt", {"w.grad": G, "v.grad": [12.0]})) == {"": 13.0}
    assert norms(write(tmp_path / "b.pt", {"grad": G, "master": [12.0]})) == {"": 13.0}


def test_losses_enter_no_norm_of_a_directory(tmp_path: Path) -> None:
    write(tmp_path / "dump.npz", {"a": G, "b": [0.0]})
    for name in ("loss", "losses", "lr", "train_loss", "grad_norm"):
        write(tmp_path / f"{name}.npy", {"": [math.inf]})
    assert norms(tmp_path) == {"": 5.0, "other": None}
    total = gradtool.measure(tmp_path).total
    assert total is not None
    assert total.norm == 5.0


NAMES = {
    "other": [
        "loss_step_1",
        "val_loss",
        "model_loss",
        "lr_scheduler",
        "grad_scaler",
        "rng_state_3",
    ],
    "optimizer": ["optimizer_step_10", "model_optim", "bf16_zero_pp_rank_0_optim_states"],
    "ema": ["ema", "model_ema_10"],
    "model": ["model_10", "WEIGHTS", "model-epoch=02-val_loss=0.32", "params.final"],
    "grads": ["grads_model", "optimizer_grads", "grads_lr0.1", "main_grad"],
    None: ["step_10", "mymodel", "run_lr0.1", "gradient_accumulation", "module_3", "remodelling"],
}


@pytest.mark.parametrize(("section", "stem"), [(s, n) for s, names in NAMES.items() for n in names])
def test_words_count_as_wholes_and_gradients_before_all(section: str | None, stem: str) -> None:
    told = told_by(stem)
    assert (told and told.section) == section


@pytest.mark.parametrize(
    "names", [["weights", "bias"], ["model", "head"], ["model.layers.0.weight", "lm_head.weight"]]
)
def test_a_parameter_may_be_called_as_weights_are(names: list[str], tmp_path: Path) -> None:
    for name, array in zip(names, ([3.0], [4.0]), strict=True):
        write(tmp_path / f"{name}.npy", {"": array})
    assert norms(tmp_path) == {"": 5.0}
    assert [one.kind for one in gradtool.measure(tmp_path / f"{names[0]}.npy").sections] == [None]


def test_what_a_dump_notes_counts_before_its_name(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor(G)
    dump_gradients([("a", weight)], tmp_path / "model.safetensors")
    write(tmp_path / "weights.pt", {"b": W})
    assert norms(tmp_path) == {"grads": 5.0, "model": 13.0}


def test_files_of_several_kinds_may_hold_the_same_names(tmp_path: Path) -> None:
    name, run = "layers.0.w", tmp_path / "run"
    write(run / "grads.pt", {name: G, "b": [0.0]})
    write(run / "model_final.pt", {name: W})
    write(run / "optimizer.pt", {name: M})
    write(run / "model_ema.pt", {name: [24.0, 10.0]})
    expected = {"grads": 5.0, "model": 13.0, "optimizer": 17.0, "ema": 26.0}
    assert norms(run) == expected
    found = gradtool.measure(run)
    names = {*(f"{section}.{name}" for section in expected), "grads.b"}
    assert {tensor.name for tensor in found.tensors} == names
    assert any("model.* of model_final.pt" in note for note in found.notes)
    assert norms(run, include="model.*") == {"model": 13.0}
    clipped = gradtool.clip(run, tmp_path / "out", max_norm=1.0, section="grads", eps=0)
    assert clipped.norm_before == 5.0
    assert norms(tmp_path / "out" / "grads.pt") == {"": pytest.approx(1.0, rel=1e-6)}


@pytest.mark.parametrize("name", ["model_copy.pt", "unknown.pt", "weights.pt"])
def test_the_same_names_for_no_reason_are_refused(name: str, tmp_path: Path) -> None:
    write(tmp_path / "grads.pt", {"a": G})
    write(tmp_path / "model.pt", {"a": W})
    write(tmp_path / name, {"a": M})
    with pytest.raises(gradtool.SameTensorsError, match="both hold 'a'"):
        gradtool.measure(tmp_path)
