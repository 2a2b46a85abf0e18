"""Scales that are none, or not certain: said or refused, and nothing is made of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dumps import write_safetensors
from safetensors.torch import save_file

import gradtool

WEIGHT = torch.full((4, 6), 2.0).to(torch.float8_e4m3fn)
AS_IT_IS = math.sqrt(4 * 6 * 4)


def measured(path: Path, **options: Any) -> tuple[float, tuple[str, ...]]:
    """Norm of the weight, and the notes without which it would be misread."""
    found = gradtool.measure(path, apply_scales=True, **options)
    (weight,) = (tensor for tensor in found.tensors if tensor.name == "w.weight")
    return weight.norm, found.essential_notes


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        (torch.ones(3, 5), "'w.weight_scale' has 3x5 numbers for 4x6 elements"),
        (torch.ones(6), "'w.weight_scale' has 6 numbers for 4x6 elements"),
        (torch.ones(4, 6, 1), "'w.weight_scale' has 4x6x1 numbers for 4x6 elements"),
        (torch.ones(5, 6), "'w.weight_scale' has 5x6 numbers for 4x6 elements"),
        (torch.ones(0, 6), "'w.weight_scale' has 0x6 numbers for 4x6 elements"),
        (torch.ones(4, 1, dtype=torch.int32), "'w.weight_scale' is I32"),
        (torch.ones(4, 1, dtype=torch.complex64), "'w.weight_scale' is C64"),
    ],
)
@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_what_fits_no_blocks_is_not_applied(
    kind: str, scale: torch.Tensor, said: str, tmp_path: Path
) -> None:
    path = tmp_path / f"model.{kind}"
    tree = {"w.weight": WEIGHT, "w.weight_scale": scale}
    save_file(tree, path) if kind == "safetensors" else torch.save(tree, path)
    norm, notes = measured(path)
    assert norm == AS_IT_IS
    assert notes == (f"1 fp8 tensor is measured as it is, its scale not applied: {said}",)


def test_a_scale_or_a_weight_that_is_no_range_is_not_applied(tmp_path: Path) -> None:
    scale = torch.arange(8.0).reshape(4, 2)[:, :1]
    stream = np.ones((4, 1), np.float32)  # text in a pickle of torch
    transposed = WEIGHT.reshape(6, 4).t()
    for number, (weight, beside, what) in enumerate(
        [(WEIGHT, scale, "w.weight_scale"), (WEIGHT, stream, "w.weight_scale"),
         (transposed, torch.ones(4, 1), "w.weight")]
    ):  # fmt: skip
        path = tmp_path / f"{number}.pt"
        torch.save({"w.weight": weight, "w.weight_scale": beside}, path)
        norm, (note,) = measured(path)
        assert norm == AS_IT_IS
        assert note.endswith(f"not applied: '{what}' is stored in parts, as a view or as a stream")


def test_two_scales_that_fit_are_a_question(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tree = {"w.weight": WEIGHT, "w.weight_scale": torch.ones(4, 1), "w.scale": torch.tensor(2.0)}
    save_file(tree, path)
    with pytest.raises(gradtool.UnsupportedFormatError) as refused:
        gradtool.measure(path, apply_scales=True)
    assert "'w.weight': two scales fit it, 'w.weight_scale' and 'w.scale'" in str(refused.value)
    assert "`apply_scales`" in str(refused.value)
    # Another weight is none of its business.
    save_file({**tree, "v.weight": WEIGHT.clone()}, path)
    found = gradtool.measure(path, apply_scales=True, include="v.weight")
    (note,) = found.essential_notes
    assert note == "1 fp8 tensor has no scale and is measured as it is: 'v.weight'"
    # One that does not fit is no second one.
    save_file({**tree, "w.scale": torch.ones(5)}, path)
    assert measured(path) == (AS_IT_IS, ())


def test_numbers_that_are_none_make_their_elements_such(tmp_path: Path) -> None:
    scale = torch.tensor([[1.0], [math.inf], [math.nan], [-math.inf]])
    weight = WEIGHT.double()
    weight[1, 0] = 0.0
    path = tmp_path / "model.safetensors"
    save_file({"w.weight": weight.to(torch.float8_e4m3fn), "w.weight_scale": scale}, path)
    found = gradtool.measure(path, apply_scales=True)
    (tensor,) = (tensor for tensor in found.tensors if tensor.name == "w.weight")
    assert (tensor.stats.nan, tensor.stats.posinf, tensor.stats.neginf) == (1 + 6, 5, 6)
    assert tensor.first_nonfinite == (1, 0)
    assert tensor.stats.finite_norm == math.sqrt(6 * 4)


def test_without_fp8_the_option_has_no_effect_which_is_said(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w.weight": torch.ones(4), "w.weight_scale": torch.ones(1)}, path)
    norm, notes = measured(path)
    assert (norm, notes) == (2.0, ("no scale is applied: there is no fp8 tensor",))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('{"quantization_config": {"weight_block_size": [0, 2]}}', "weight_block_size [0, 2]"),
        ('{"quantization_config": {"weight_block_size": [2]}}', "weight_block_size [2]"),
        ('{"quantization_config": {"weight_block_size": "2"}}', "weight_block_size '2'"),
        ('{"quantization_config": {"weight_block_size": [2, 1e9]}}', "weight_block_size"),
        ('{"quantization_config": {"weight_block_size": [2, 99999999999]}}', "weight_block_size"),
        ('{"quantization_config": ', "the config is not valid JSON"),
        ("[" * 100_000, "the config is not valid JSON"),
    ],
)
def test_a_config_that_lies_is_named(config: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w.weight": WEIGHT, "w.weight_scale_inv": torch.ones(2, 3)}, path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(gradtool.CorruptFileError) as refused:
        gradtool.measure(path, apply_scales=True)
    assert f"{tmp_path / 'config.json'}: {said}" in str(refused.value)
    # Nobody asks it where the shapes are clear.
    save_file({"w.weight": WEIGHT, "w.weight_scale_inv": torch.ones(4)}, path)
    assert measured(path) == (AS_IT_IS, ())
    assert gradtool.measure(path).notes == ()


def test_an_empty_weight_has_no_products(tmp_path: Path) -> None:
    empty = {
        "w.weight": ("F8_E4M3", np.zeros((0, 6), np.uint8)),
        "w.scale": ("F32", np.ones(1, np.float32)),
    }
    path = write_safetensors(tmp_path / "model.safetensors", empty)
    assert measured(path) == (0.0, ())


def test_a_scale_that_was_cut_off_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    first, second = (tmp_path / "m" / f"model-{n:05}-of-00002.safetensors" for n in (1, 2))
    save_file({"w.weight": WEIGHT}, first)
    save_file({"w.weight_scale": torch.ones(4)}, second)
    index = {"weight_map": {"w.weight": first.name, "w.weight_scale": second.name}}
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert measured(tmp_path / "m") == (AS_IT_IS, ())
    second.write_bytes(second.read_bytes()[:-1])
    with pytest.raises(gradtool.CorruptFileError, match="model-00002-of-00002"):
        gradtool.measure(tmp_path / "m", apply_scales=True)
