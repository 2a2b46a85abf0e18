"""fp8 weights times the scales beside them: which belong together, and what is said of the others.

Norms are those of the products in float64, made by torch or known by hand.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import run
from distcp import Item, write_distcp
from dumps import write_safetensors
from safetensors.torch import save_file

import gradtool
from gradtool.core.shapes.boxes import Box

E4M3 = torch.float8_e4m3fn
ONE_EACH = "(one number each)"


def case() -> dict[str, torch.Tensor]:
    """Weights of three layers as DeepSeek has them, of which the scale of the last is NaN."""
    torch.manual_seed(0)
    found: dict[str, torch.Tensor] = {}
    for layer in range(3):
        place = f"model.layers.{layer}.mlp.down_proj"
        found[f"{place}.weight"] = (torch.randn(16, 16) * 20).to(E4M3)
        found[f"{place}.weight_scale_inv"] = torch.full((1, 1), 1e-3)
        found[f"{place}.k_scale"] = torch.tensor(1.0)
        found[f"{place}.comfy_quant"] = torch.zeros(26, dtype=torch.uint8)
    found["model.layers.1.mlp.down_proj.k_scale"] = torch.tensor(math.inf)
    found["model.layers.2.mlp.down_proj.weight_scale_inv"] = torch.tensor([[math.nan]])
    return found


def norms(found: gradtool.Measurement) -> dict[str, float]:
    """Norms of the weights by name."""
    return {tensor.name: tensor.norm for tensor in found.tensors if tensor.spec.section != "other"}


def true_norm(weight: torch.Tensor, factors: torch.Tensor | float = 1.0) -> float:
    return float((weight.double() * factors).norm())


def test_scales_are_applied_and_stay_apart(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(case(), path)
    found = gradtool.measure(path, apply_scales=True)
    *healthy, broken = norms(found).values()
    assert healthy == pytest.approx([0.303179, 0.348471], rel=2e-6)
    assert math.isnan(broken)
    weights = [tensor for tensor in found.tensors if tensor.spec.section == ""]
    assert [tensor.native_norm for tensor in weights] == [None] * 3
    assert weights[-1].name == "model.layers.2.mlp.down_proj.weight"
    assert (weights[-1].stats.nan, weights[-1].first_nonfinite) == (256, (0, 0))
    others = {tensor.name for tensor in found.tensors if tensor.spec.section == "other"}
    assert {name.rpartition(".")[2] for name in others} == {"k_scale", "weight_scale_inv"}
    assert (found.total and found.total.tensors, len(others)) == (3, 6)
    assert found.notes == (f"3 fp8 tensors are measured times their scales {ONE_EACH}",)

    whole = {**case(), "model.layers.2.mlp.down_proj.weight_scale_inv": torch.full((1, 1), 1e-3)}
    save_file(whole, path)
    assert list(norms(gradtool.measure(path, apply_scales=True)).values()) == pytest.approx(
        [0.303179, 0.348471, 0.336081], rel=2e-6
    )
    as_stored = gradtool.measure(path)
    assert list(norms(as_stored).values()) == pytest.approx([303.179, 348.471, 336.081], rel=2e-6)
    assert as_stored.notes == ()


def test_the_commands_take_the_option_and_tell_of_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(case(), path)
    (report,) = json.loads(run("inspect", str(path), "--apply-scales", "-f", "json").stdout)[
        "reports"
    ]
    assert report["notes"] == [f"3 fp8 tensors are measured times their scales {ONE_EACH}"]
    rows = {row["name"]: row for row in report["tensors"]}
    weight = rows["model.layers.0.mlp.down_proj.weight"]
    assert (weight["dtype"], weight["native_norm"]) == ("F8_E4M3", None)
    assert weight["norm"] == pytest.approx(0.303179, rel=2e-6)
    failed = run("check", str(path), "--apply-scales")
    assert failed.returncode == 1
    assert "down_proj.weight: 256 NaN" in failed.stdout
    assert run("check", str(path)).returncode == 0
    refused = run("clip", str(path), "--max-norm", "1", "--dry-run", "--apply-scales")
    assert refused.returncode == 2
    with pytest.raises(gradtool.UsageError, match="clipping changes stored elements"):
        gradtool.clip(path, max_norm=1, dry_run=True, apply_scales=True)


def test_a_baseline_knows_the_products(tmp_path: Path) -> None:
    weights = {"w.weight": torch.full((4, 4), 2.0).to(E4M3), "w.weight_scale": torch.tensor(3.0)}
    path = tmp_path / "grads.safetensors"
    save_file(weights, path)
    baseline = tmp_path / "b.json"
    assert run("baseline", "save", str(path), "--apply-scales", "-o", str(baseline)).returncode == 0
    checked = [run("check", str(path), *more, "--baseline", str(baseline), "--rtol", "1e-6")
               for more in ([], ["--apply-scales"])]  # fmt: skip
    assert [result.returncode for result in checked] == [1, 0]


def tree() -> dict[str, torch.Tensor]:
    """One weight for each way in which a scale is called and shaped."""
    torch.manual_seed(1)
    blocks, rows, numbers = torch.rand(3, 2), torch.rand(5, 1), torch.rand(6)
    return {
        "a.weight": torch.randn(300, 200).to(E4M3),
        "a.weight_scale_inv": blocks,
        "b.weight": torch.randn(5, 7).to(torch.float8_e5m2),
        "b.weight_scale": rows.to(torch.bfloat16),
        "c.weight": torch.randn(6, 4).to(E4M3),
        "c.scale_weight": numbers.to(torch.float16),
        "c.scale_input": torch.tensor(1000.0),
        "d.weight": torch.randn(3, 3).to(E4M3),
        "d.scale": torch.tensor([5.0]),
        "d.input_scale": torch.tensor(1000.0),
        "e.weight": torch.randn(3, 3).to(E4M3),
        "e.weights_scaling_factor": torch.tensor([7.0]),
        "e.activation_scaling_factor": torch.tensor([1000.0]),
        "a_scale_b.experts.gate_up_proj": torch.randn(2, 256, 130).to(E4M3),
        "a_scale_b.experts.gate_up_proj_scale_inv": torch.rand(2, 2, 2),
        "a_scale_b.experts.gate_up_proj_activation_scale": torch.tensor([1000.0]),
        "mx.weight": torch.randn(4, 64).to(E4M3),
        "mx.weight_scale": torch.tensor([[2.0, 4.0], [0.5, 1.0], [1.0, 8.0], [2.0, 2.0]]).to(
            torch.float8_e8m0fnu
        ),
        "norm.weight": torch.tensor([3.0]),
    }


def expected(found: dict[str, torch.Tensor]) -> dict[str, float]:
    def stretched(scale: str, rows: int, columns: int) -> torch.Tensor:
        wide = found[scale].double().repeat_interleave(columns, -1)
        return wide.repeat_interleave(rows, -2) if rows > 1 else wide

    experts = stretched("a_scale_b.experts.gate_up_proj_scale_inv", 128, 128)[:, :256, :130]
    factors: dict[str, torch.Tensor | float] = {
        "a.weight": stretched("a.weight_scale_inv", 128, 128)[:300, :200],
        "b.weight": found["b.weight_scale"].double(),
        "c.weight": found["c.scale_weight"].double()[:, None],
        "d.weight": 5.0,
        "e.weight": 7.0,
        "a_scale_b.experts.gate_up_proj": experts,
        "mx.weight": stretched("mx.weight_scale", 1, 32),
        "norm.weight": 1.0,
    }
    return {name: true_norm(found[name], factor) for name, factor in factors.items()}


@pytest.mark.parametrize("kind", ["safetensors", "pt", "legacy", "memory", "directory", "shards"])
def test_every_name_and_shape_of_scales(kind: str, tmp_path: Path) -> None:
    stored = tree()
    path = tmp_path / f"a.{kind}"
    source: object = path
    if kind == "memory":
        source = stored
    elif kind == "safetensors":
        save_file(stored, path)
    elif kind in ("directory", "shards"):
        source = path
        shards(path, stored, has_index=kind == "shards")
    else:
        torch.save(stored, path, _use_new_zipfile_serialization=kind == "pt")
    found = gradtool.measure(source, apply_scales=True)
    true = {name: norm for name, norm in expected(tree()).items() if name in stored}
    assert norms(found) == pytest.approx(true, rel=1e-12)
    (note,) = (note for note in found.notes if "fp8" in note)
    assert note.startswith(f"{len(true) - 1} fp8 tensors are measured times their scales (blocks")
    # What was not asked for is applied all the same, and divided by a loss scale.
    part = gradtool.measure(source, apply_scales=True, include="a.weight", loss_scale=4.0)
    assert norms(part) == pytest.approx({"a.weight": true["a.weight"] / 4}, rel=1e-12)


def shards(path: Path, stored: dict[str, torch.Tensor], *, has_index: bool) -> None:
    """Weights and their scales in different files of a directory."""
    path.mkdir()
    first = {name: value for name, value in stored.items() if "sca" not in name}
    second = {name: value for name, value in stored.items() if "sca" in name}
    home = {}
    for number, part in enumerate((second, first), 1):
        name = f"model-{number:05}-of-00002.safetensors"
        save_file(part, path / name)
        home |= dict.fromkeys(part, name)
    if has_index:
        index = json.dumps({"metadata": {}, "weight_map": home})
        (path / "model.safetensors.index.json").write_text(index)


@pytest.mark.parametrize("has_index", [True, False])
def test_scales_in_another_shard_are_other_whatever_is_asked_for(
    has_index: bool, tmp_path: Path
) -> None:
    shards(tmp_path / "model", tree(), has_index=has_index)
    found = gradtool.measure(tmp_path / "model", exclude="*weight")
    sections = {tensor.name: tensor.spec.section for tensor in found.tensors}
    assert sections["a.weight_scale_inv"] == sections["e.activation_scaling_factor"] == "other"
    assert sections["a_scale_b.experts.gate_up_proj_activation_scale"] == "other"
    assert {name for name, section in sections.items() if section != "other"} == {
        "a_scale_b.experts.gate_up_proj"
    }


def test_files_of_a_directory_that_join_by_name(tmp_path: Path) -> None:
    save_file({"w.weight": torch.full((2, 2), 2.0).to(E4M3)}, tmp_path / "model.safetensors")
    save_file({"w.weight_scale": torch.tensor(3.0)}, tmp_path / "scales.safetensors")
    assert norms(gradtool.measure(tmp_path, apply_scales=True)) == {"w.weight": 12.0}


def with_config(folder: Path, config: Any, scale: torch.Tensor) -> Path:
    folder.mkdir()
    weight = torch.ones(192, 96).to(E4M3)
    save_file({"w.weight": weight, "w.weight_scale_inv": scale}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_config_tells_how_large_blocks_are(tmp_path: Path) -> None:
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [96, 48]}}
    scale = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    path = with_config(tmp_path / "a", config, scale)
    for source in (path, path / "model.safetensors"):
        found = gradtool.measure(source, apply_scales=True)
        assert norms(found)["w.weight"] == pytest.approx(math.sqrt(96 * 48 * 30), rel=1e-14)
        assert any("(blocks of 96 x 48)" in note for note in found.notes)
    # By shapes alone they would be 128 x 64.
    path = with_config(tmp_path / "b", {"quantization_config": None}, scale)
    found = gradtool.measure(path, apply_scales=True)
    elements = 128 * 64 + 128 * 32 * 4 + 64 * 64 * 9 + 64 * 32 * 16
    assert norms(found)["w.weight"] == pytest.approx(math.sqrt(elements), rel=1e-14)
    # What a config contradicts is not certain.
    contradicted = {"quantization_config": {"weight_block_size": [64, 64]}}
    path = with_config(tmp_path / "c", contradicted, scale)
    found = gradtool.measure(path, apply_scales=True)
    assert norms(found)["w.weight"] == pytest.approx(math.sqrt(192 * 96), rel=1e-14)
    assert any("not applied: 'w.weight_scale_inv' has 2x2" in n for n in found.essential_notes)


def test_one_weight_of_two_names_and_scales_counts_once(tmp_path: Path) -> None:
    weight = torch.tensor([[1.0, 2.0], [2.0, 4.0]]).to(E4M3)
    path = tmp_path / "tied.pt"
    torch.save(
        {
            "a.weight": weight,
            "a.weight_scale": torch.tensor([[2.0], [3.0]]),
            "b.weight": weight,
            "b.weight_scale": torch.tensor(10.0),
            "c.weight": weight[1],
            "c.weight_scale": torch.tensor(math.nan),
        },
        path,
    )
    found = gradtool.measure(path, apply_scales=True)
    assert [tensor.norm for tensor in found.tensors if tensor.spec.section != "other"] == [
        pytest.approx(math.sqrt(4 * 5 + 9 * 20), rel=1e-14),
        50.0,
        pytest.approx(math.nan, nan_ok=True),
    ]
    assert found.total is not None
    assert found.total.stats.numel == 4
    assert found.total.norm == pytest.approx(math.sqrt(4 * 5 + 9 * 20), rel=1e-14)
    numpy_, torch_ = (
        gradtool.measure(path, apply_scales=True, **options)
        for options in ({"backend": "numpy"}, {"backend": "torch", "device": "cpu"})
    )
    assert norms(numpy_)["a.weight"] == norms(torch_)["a.weight"]


def test_gradients_that_gradtool_dumped_have_no_scales(tmp_path: Path) -> None:
    grads = {
        "w.weight": ("F8_E4M3", torch.full((2,), 2.0).to(E4M3).view(torch.uint8).numpy()),
        "w.scale": ("F32", np.float32([3])),
    }
    path = write_safetensors(tmp_path / "g.safetensors", grads, {"gradtool.dump": "1"})
    found = gradtool.measure(path, apply_scales=True)
    assert norms(found) == {"w.weight": math.sqrt(8), "w.scale": 3.0}


@pytest.mark.parametrize("in_blobs", [False, True])
def test_distributed_checkpoints_apply_what_is_in_one_piece(in_blobs: bool, tmp_path: Path) -> None:
    stored = {
        name: tree()[name]
        for name in ("a.weight", "a.weight_scale_inv", "d.weight", "d.scale", "mx.weight_scale")
    }
    boxes = {name: [Box((0,) * value.dim(), tuple(value.shape))] for name, value in stored.items()}
    boxes["d.weight"] = [Box((0, 0), (1, 3)), Box((1, 0), (2, 3))]
    ranks = [
        [Item(name, cut[0]) for name, cut in boxes.items()],
        [Item("d.weight", boxes["d.weight"][1])],
    ]
    write_distcp(tmp_path / "dcp", stored, ranks, in_blobs=in_blobs)
    found = gradtool.measure(tmp_path / "dcp", apply_scales=True)
    assert norms(found) == pytest.approx(
        {"a.weight": expected(tree())["a.weight"], "d.weight": true_norm(stored["d.weight"])},
        rel=1e-12,
    )
    (left,) = found.essential_notes
    assert left.endswith("'d.weight' is stored in parts, as a view or as a stream")
