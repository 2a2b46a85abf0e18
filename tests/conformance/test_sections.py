"""Sections have the names that people use, whatever their keys are called and wherever they lie."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run
from dumps import write_safetensors
from safetensors.torch import save_file

import gradtool
from gradtool.core.sections import sections_of, sections_of_flat_names
from gradtool.formats.file_kinds import sections_told

ONE = np.ones(1, np.float32)

MOMENTS = {
    "optimizer.state.0.exp_avg": "optimizer.exp_avg",
    "optimizer.state.layers.3.w.exp_avg_sq": "optimizer.exp_avg_sq",
    "optimizer_states.0.state.5.momentum_buffer": "optimizer.momentum_buffer",
    "optimizer.state.0.history.1": "optimizer.history",
    "optimizer.layers.0.weight.m": "optimizer.m",
    "opt_state.0.mu.layers.0.w": "optimizer.mu",
    "optimizer.state.exp_avg.decoder.w": "optimizer.exp_avg",
    "optimizer.fp32_flat_groups.0": "optimizer.master",
    "optimizer.single_partition_of_fp32_groups.0": "optimizer.master",
    "optimizer.w": "optimizer",
    "optimizer.state.0.step": "other",
    "optimizer.param_groups.0.lr": "other",
    "optimizer.param_groups.0.params.3": "model",
    "optimizer.learning_rate": "other",
    "opt_state.0.count": "other",
}


@pytest.mark.parametrize(("name", "section"), MOMENTS.items())
def test_moments_are_called_by_what_they_are(name: str, section: str) -> None:
    found = sections_of({name: name.partition(".")[0]})
    assert found(name) == section
    kind = {"other": None, "model": "weights"}.get(section, "optimizer")
    assert found.kinds.get(section) == kind


def test_what_no_key_explains_is_other_beside_what_a_key_does() -> None:
    names = {"state_dict.w": "state_dict", "callbacks.best": "callbacks", "loss": None}
    assert sections_of(names).by_name == {
        "state_dict.w": "model",
        "callbacks.best": "other",
        "loss": "other",
    }
    # Weights under a name of one's own beside an optimizer's moments.
    mine = {"net.w": "net", "optimizer.w.m": "optimizer", "epoch": None, "lr_scheduler.a": None}
    assert sections_of(mine).by_name == {
        "net.w": "model",
        "optimizer.w.m": "optimizer.m",
        "epoch": "other",
        "lr_scheduler.a": "other",
    }
    assert sections_of({"net.w": "net", "loss": None}).by_name == {}


def test_averages_are_not_added_to_the_weights() -> None:
    found = sections_of({"model.w": "model", "ema_state_dict.w": "ema_state_dict"})
    assert found.by_name == {"model.w": "model", "ema_state_dict.w": "ema"}
    assert found.kinds == {"model": "weights", "ema": "weights"}


@pytest.mark.parametrize("suffix", ["pt", "safetensors", "npz"])
@pytest.mark.parametrize("key", ["ema", "ema_state_dict", "model_ema"])
def test_a_model_and_its_average_have_norms_of_their_own_and_none_together(
    tmp_path: Path, key: str, suffix: str
) -> None:
    arrays = {"model.w": np.float32([3.0, 4.0]), f"{key}.w": np.float32([6.0, 8.0])}
    path = tmp_path / f"last.{suffix}"
    if suffix == "pt":
        nested = {name.partition(".")[0]: {"w": torch.tensor(a)} for name, a in arrays.items()}
        torch.save(nested, path)
    elif suffix == "npz":
        np.savez(path, **arrays)
    else:
        save_file({name: torch.tensor(array) for name, array in arrays.items()}, path)
    found = gradtool.measure(path)
    assert found.total is None
    assert {one.name: one.norm for one in found.sections} == {"model": 5.0, "ema": 10.0}
    average = gradtool.measure(path, section="ema").total
    assert average is not None
    assert average.norm == 10.0
    with pytest.raises(gradtool.UsageError, match=r"'(model|ema)', '(model|ema)'"):
        gradtool.clip(path, tmp_path / f"out.{suffix}", max_norm=1.0, include=["*"])
    outcome = gradtool.check(path)
    assert outcome.exit_code == 0
    assert [(one.kind, one.tensors) for one in outcome.verdicts[0].kinds] == [("weights", 2)]


def test_flat_names_have_sections_only_where_they_tell() -> None:
    assert sections_of_flat_names(["model.a", "lm_head.b", "loss"]).by_name == {}
    assert sections_of_flat_names(["grads.a", "head.b"]).by_name == {}
    assert sections_of_flat_names(["grads.a", "loss"]).by_name == {
        "grads.a": "grads",
        "loss": "other",
    }


def test_the_name_of_a_file_is_a_key() -> None:
    moments = {"state.0.exp_avg": "optimizer.exp_avg", "state.0.step": "other"}
    assert sections_told("optimizer", moments).by_name == moments
    assert sections_told("other", ["cpu"])("cpu") == "other"


def lightning(folder: Path) -> Path:
    """As Lightning has it: a callback's best score begins at infinity."""
    w = torch.tensor([3.0, 4.0])
    path = folder / "last.ckpt"
    torch.save(
        {
            "state_dict": {"w": w},
            "optimizer_states": [{"state": {0: {"exp_avg": w * 2, "step": torch.tensor(7.0)}}}],
            "callbacks": {"ModelCheckpoint": {"kth_value": torch.tensor(math.inf)}},
        },
        path,
    )
    return path


@pytest.mark.parametrize(
    ("section", "norms"),
    [
        ("model", {"state_dict.w": 5.0}),
        ("state_dict", {"state_dict.w": 5.0}),
        ("optimizer", {"optimizer_states.0.state.0.exp_avg": 10.0}),
        ("optimizer.exp_avg", {"optimizer_states.0.state.0.exp_avg": 10.0}),
        ("optimizer_states", {"optimizer_states.0.state.0.exp_avg": 10.0}),
        (
            "other",
            {
                "optimizer_states.0.state.0.step": 7.0,
                "callbacks.ModelCheckpoint.kth_value": math.inf,
            },
        ),
    ],
)
def test_a_section_is_asked_for_by_its_name_a_parent_or_the_files_own_key(
    section: str, norms: dict[str, float], tmp_path: Path
) -> None:
    found = gradtool.measure(lightning(tmp_path), section=section)
    assert {tensor.name: tensor.norm for tensor in found.tensors} == norms


@pytest.mark.parametrize("section", ["opt", "optimizer.exp", "callbacks", "state"])
def test_a_part_of_a_name_is_no_section(section: str, tmp_path: Path) -> None:
    with pytest.raises(gradtool.UsageError, match="has no section"):
        gradtool.measure(lightning(tmp_path), section=section)


def test_other_has_no_norm_and_is_not_judged(tmp_path: Path) -> None:
    path = lightning(tmp_path)
    report = json.loads(run("inspect", str(path), "-f", "json").stdout)["reports"][0]
    sections = {section["name"]: section for section in report["sections"]}
    other = sections["other"]
    assert [other[name] for name in ("kind", "norm", "finite_norm", "native_norm")] == [None] * 4
    assert (other["tensors"], other["posinf"]) == (2, 1)
    assert sections["model"]["norm"] == 5.0
    assert [row["norm"] for row in report["tensors"] if "kth" in row["name"]] == ["Infinity"]
    codes = {finding.code for finding in gradtool.check(path).all_findings}
    assert codes.isdisjoint({"GT101", "GT102", "GT104"})


def test_a_loss_beside_gradients_enters_no_norm(tmp_path: Path) -> None:
    arrays = {"grads.w": ("F32", np.float32([3, 4])), "loss": ("F32", np.float32([np.inf]))}
    flat = write_safetensors(tmp_path / "flat.safetensors", arrays)
    nested = tmp_path / "nested.pt"
    tree = {"grads": {"w": torch.tensor([3.0, 4.0])}, "loss": torch.tensor(math.inf)}
    torch.save(tree, nested)
    for source in (flat, nested, tree):
        total = gradtool.measure(source).total
        assert total is not None
        assert (total.norm, total.tensors, total.stats.nonfinite) == (5.0, 1, 0)
    for path in (flat, nested):
        assert not gradtool.check(path).failed
        out = path.with_suffix(".out")
        clipped = gradtool.clip(path, out, max_norm=1.0, eps=0)
        assert clipped.norm_before == 5.0
        norms = {tensor.name: tensor.norm for tensor in gradtool.measure(out).tensors}
        assert norms == pytest.approx({"grads.w": 1.0, "loss": math.inf})


def test_elements_count_for_gradients_though_other_names_come_first(tmp_path: Path) -> None:
    w = torch.tensor([3.0, 4.0])
    torch.save({"mine": {"w": w}, "grads": {"w": w}, "loss": torch.ones(1)}, tmp_path / "a.pt")
    found = gradtool.measure(tmp_path / "a.pt")
    assert found.total is not None
    assert found.total.norm == 5.0
    assert [tensor.name for tensor in found.tensors] == ["mine.w", "grads.w", "loss"]
    assert gradtool.check(tmp_path / "a.pt").verdicts[0].summary is not None


def fp8(multiplied: str = "mlp.down") -> dict[str, torch.Tensor]:
    """As DeepSeek and vLLM have it; one scale is infinite."""
    return {
        f"{multiplied}.weight": torch.full((4, 4), 2.0).to(torch.float8_e4m3fn),
        f"{multiplied}.weight_scale_inv": torch.full((1, 1), 1e-3),
        f"{multiplied}.input_scale": torch.tensor(math.inf),
        "attn.k_proj.weight": torch.ones(4).to(torch.float8_e5m2),
        "attn.k_scale": torch.tensor(7.0),
        "norm.scale": torch.tensor([3.0]),  # of a layer in plain float32
    }


@pytest.mark.parametrize("kind", ["safetensors", "pt", "legacy", "memory", "directory"])
def test_scales_of_fp8_tensors_are_other(kind: str, tmp_path: Path) -> None:
    tree = fp8()
    path = tmp_path / f"a.{kind}"
    source: object = path
    if kind == "memory":
        source = tree
    elif kind == "safetensors":
        save_file(tree, path)
    elif kind == "directory":
        path.mkdir()
        save_file(tree, path / "model.safetensors")
        torch.save({"state": {}, "param_groups": [torch.ones(1)]}, path / "optimizer.pt")
        source = path
    else:
        torch.save(tree, path, _use_new_zipfile_serialization=kind == "pt")
    found = gradtool.measure(source, exclude="param_groups.*")
    assert found.total is not None
    # 16 twos, 4 ones and a three: no scale among them.
    assert found.total.norm == math.sqrt(16 * 4 + 4 + 9)
    others = {tensor.name for tensor in found.tensors if tensor.spec.section == "other"}
    assert others == {"mlp.down.weight_scale_inv", "mlp.down.input_scale", "attn.k_scale"}
    part = gradtool.measure(source, include="attn.k_scale")
    assert [tensor.spec.section for tensor in part.tensors] == ["other"]


def test_what_is_called_a_scale_is_none_without_fp8() -> None:
    tree = {name: value.to(torch.float32) for name, value in fp8().items()}
    assert [section.name for section in gradtool.measure(tree).sections] == [""]
