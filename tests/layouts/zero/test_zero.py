"""Checkpoints of ZeRO: parameters are what DeepSpeed cut them from, and padding is nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts.zero.zeros import NAN, Zero, model_name, optim_name, some
from oracle import close
from writers.zero.loaders import zero as loaded

import gradtool

SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)
GROUPS = st.lists(st.lists(SHAPES, min_size=1, max_size=4), min_size=1, max_size=3)


def exact(tensor: torch.Tensor) -> float:
    return math.sqrt(math.fsum(value * value for value in tensor.double().flatten().tolist()))


@given(shapes=GROUPS, stage=st.sampled_from([1, 3]), world=st.integers(1, 5), is_lean=st.booleans())
@settings(max_examples=25, deadline=None)
def test_whatever_the_sizes_each_element_is_its_parameter_s(
    tmp_path_factory: pytest.TempPathFactory,
    shapes: list[list[tuple[int, ...]]],
    stage: int,
    world: int,
    is_lean: bool,
) -> None:
    folder = tmp_path_factory.mktemp("zero")
    groups = [
        {f"{g}.w{n}": torch.randn(shape) for n, shape in enumerate(group)}
        for g, group in enumerate(shapes)
    ]
    zero = Zero(groups, stage, world, is_lean=is_lean)
    zero.write(folder / "zero")
    torch.save(zero.whole, folder / "whole.pt")
    found = gradtool.measure(folder / "zero", section="optimizer")
    assert {one.name: one.spec.shape for one in found.tensors} == {
        name: tuple(tensor.shape) for name, tensor in zero.whole.items()
    }
    for one in found.tensors:
        assert close(one.norm, exact(zero.whole[one.name]))
    apart = gradtool.diff(folder / "zero", folder / "whole.pt", section="optimizer")
    assert [pair.name for pair in apart.tensors if not pair.identical] == []
    assert len(apart.tensors) == len(zero.whole)


@pytest.mark.parametrize("stage", [1, 3])
def test_padding_counts_nowhere_and_what_is_cut_is_found_by_its_own_index(
    tmp_path: Path, stage: int
) -> None:
    zero = some(stage=stage)
    zero.groups[0]["a.weight"][4, 2] = NAN
    zero.write(tmp_path)
    found = {one.name: one for one in gradtool.measure(tmp_path).tensors}
    bad = [name for name, one in found.items() if one.stats.nan and name.startswith("optimizer")]
    whats = ("master", "exp_avg", "exp_avg_sq")
    assert bad == [f"optimizer.state.a.weight.{what}" for what in whats]
    assert {found[name].first_nonfinite for name in bad} == {(4, 2)}


@pytest.mark.parametrize("stage", [1, 3])
def test_sections_and_what_is_not_trained(tmp_path: Path, stage: int) -> None:
    zero = some(stage=stage)
    zero.write(tmp_path)
    found = gradtool.measure(tmp_path)
    assert (found.format, found.step) == ("deepspeed", 4)
    names = {one.name for one in found.tensors if one.spec.section == "model"}
    trained = {f"module.{name}" for group in zero.groups for name in group}
    assert names == {"module.mean", "module.c.weight"} | (trained if stage == 1 else set())
    tensors = {one.name: one for one in found.tensors}
    assert zero.frozen is not None
    assert close(tensors["module.c.weight"].norm, exact(zero.frozen["c.weight"]))
    sections = {one.spec.section for one in found.tensors}
    moments = {f"optimizer.{what}" for what in ("master", "exp_avg", "exp_avg_sq")}
    assert sections == {"model", "other"} | moments


def test_a_second_copy_of_what_is_not_trained_has_to_be_one(tmp_path: Path) -> None:
    def other(module: dict[str, dict[str, torch.Tensor]]) -> None:
        module["frozen_param_fragments"]["c.weight"] += 1

    some().write(tmp_path, model=other)
    with pytest.raises(gradtool.CorruptFileError, match=r"module\.c\.weight"):
        gradtool.measure(tmp_path)


def test_buffers_that_differ_are_each_rank_s_own(tmp_path: Path) -> None:
    def other(module: dict[str, dict[str, torch.Tensor]]) -> None:
        module["module"]["mean"] = torch.tensor([7.0, 0.0, 0.0])

    some(stage=3).write(tmp_path, model=other, rank=1)
    found = {one.name: one.norm for one in gradtool.measure(tmp_path).tensors}
    assert found["module.mean (rank 1)"] == 7.0


@pytest.mark.parametrize("section", ["optimizer.master", "optimizer.exp_avg"])
@pytest.mark.parametrize("stage", [1, 3])
def test_one_section_is_clipped_in_the_partitions_and_nothing_else(
    tmp_path: Path, stage: int, section: str
) -> None:
    zero = some(stage=stage)
    zero.write(tmp_path / "zero")
    out = tmp_path / "out"
    clipped = gradtool.clip(tmp_path / "zero", out, section=section, max_norm=0.5)
    assert clipped.clip_coef is not None
    before, after = loaded(str(tmp_path / "zero")), loaded(str(out))
    assert before.keys() == after.keys() >= zero.whole.keys()
    what = section.rpartition(".")[2]
    for name, tensor in before.items():
        if name.endswith(f".{what}"):
            wanted = tensor.double() * clipped.clip_coef
            assert torch.allclose(after[name].double(), wanted, rtol=1e-7, atol=0)
        else:
            assert torch.equal(after[name], tensor)


def test_each_rank_by_itself_is_a_file_of_torch_s(tmp_path: Path) -> None:
    some(world=3).write(tmp_path)
    with pytest.raises(gradtool.SeveralCheckpointsError) as listed:
        gradtool.measure(tmp_path, ranks="each")
    assert listed.value.kind == "ranks"
    assert [Path(one.path).name for one in listed.value.found] == [optim_name(n) for n in range(3)]


@pytest.mark.parametrize("stage", [1, 3])
def test_a_file_of_a_rank_that_is_missing_is_named(tmp_path: Path, stage: int) -> None:
    some(stage=stage, world=3).write(tmp_path)
    names = [optim_name(rank) for rank in range(3)]
    names += [model_name(rank) for rank in range(3)] if stage == 3 else [model_name()]
    for name in names:
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        with pytest.raises(gradtool.MissingShardError) as missing:
            gradtool.measure(tmp_path)
        assert (name if stage == 3 or name != model_name() else "model_states") in str(
            missing.value
        )
        (tmp_path / name).write_bytes(content)
    gradtool.measure(tmp_path)
    for name in names[:3]:
        (tmp_path / name).unlink()
    with pytest.raises(gradtool.MissingShardError, match="3 ranks"):
        gradtool.measure(tmp_path)


def test_what_several_saves_left_and_what_is_cut_otherwise_is_refused(tmp_path: Path) -> None:
    some().write(tmp_path)
    content = (tmp_path / optim_name(0)).read_bytes()
    for name, words in (
        (optim_name(2), "mixed"),
        (optim_name(0, "bf16_"), "mixed"),
        (optim_name(0).replace("mp_rank_00", "mp_rank_01"), "tensor or pipeline"),
        (model_name(0), "mixed"),
        ("expp_rank_0_mp_rank_00_optim_states.pt", "experts"),
        ("layer_3_expert_0_mp_rank_00_model_states.pt", "experts"),
        ("layer_01-model_00-model_states.pt", "experts or stages"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(gradtool.InputError, match=words):
            gradtool.measure(tmp_path)
        (tmp_path / name).unlink()
    gradtool.measure(tmp_path)


def test_without_zero_the_files_are_what_they_are(tmp_path: Path) -> None:
    weights = {"w": torch.arange(3.0)}
    state = {"module": weights, "optimizer": None, "param_shapes": None, "dp_world_size": 2}
    torch.save(state, tmp_path / model_name())
    found = gradtool.measure(tmp_path)
    assert [one.name for one in found.tensors] == ["module.w"]
