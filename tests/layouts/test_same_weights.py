"""Directories that hold one model twice, or its gradients: no sum of the two, whoever is asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import gradtool

A, B = np.float32([3.0, 0.0]), np.float32([4.0])
HF = {"model.embed.weight": A, "model.layers.0.self_attn.q_proj.weight": B}
META = {"tok_embeddings.weight": A, "layers.0.attention.wq.weight": B}


def write(path: Path, tensors: dict[str, np.ndarray]) -> Path:  # type: ignore[type-arg]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, path)
    return path


def write_sharded(folder: Path, stem: str, suffix: str, tensors: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    home = {
        name: f"{stem}-{n:05}-of-{len(tensors):05}.{suffix}" for n, name in enumerate(tensors, 1)
    }
    for name, shard in home.items():
        write(folder / shard, {name: tensors[name]})
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": home}))


def refused(folder: Path, *names: str) -> None:
    """It is, by names, in every command; what is named is read."""
    with pytest.raises(gradtool.SameTensorsError) as caught:
        gradtool.measure(folder)
    assert caught.value.exit_code == 2
    for name in names:
        assert repr(name) in str(caught.value)
    assert all(one.failed for one in gradtool.check(folder).verdicts)
    for name in names:
        total = gradtool.measure(folder / name, section=None).total
        assert total is not None
        assert total.norm == 5.0


@pytest.mark.parametrize("meta", ["consolidated.safetensors", "consolidated.00.pth"])
@pytest.mark.parametrize("hub", ["model.safetensors", "pytorch_model.bin"])
def test_a_release_in_two_naming_schemes_is_no_sum(tmp_path: Path, hub: str, meta: str) -> None:
    write(tmp_path / hub, HF)
    write(tmp_path / meta, META)
    refused(tmp_path, hub, meta)


def test_shards_with_an_index_beside_consolidated_weights_are_no_sum(tmp_path: Path) -> None:
    write_sharded(tmp_path, "model", "safetensors", HF)
    write_sharded(tmp_path, "consolidated", "safetensors", META)
    refused(tmp_path, "model.safetensors.index.json", "consolidated.safetensors.index.json")


def test_the_pieces_of_consolidated_weights_are_ranks_and_no_steps(tmp_path: Path) -> None:
    """Llama's `Llama.build` has one file for each rank of a model-parallel group."""
    for rank in range(2):
        write(tmp_path / f"consolidated.{rank:02}.pth", {"w": A + rank, "norm": B})
    with pytest.raises(gradtool.RanksQuestionError):
        gradtool.measure(tmp_path)
    whole = gradtool.measure(tmp_path, ranks="shard", replicated="norm")
    assert {one.name: one.norm for one in whole.tensors} == {
        "norm": 4.0,
        "w": pytest.approx(np.sqrt(9 + 16 + 1)),
    }
    (tmp_path / "consolidated.00.pth").unlink()
    with pytest.raises(gradtool.MissingShardError, match=r"'consolidated\.00\.pth' is missing"):
        gradtool.measure(tmp_path)
    write(tmp_path / "consolidated.00.pth", {"w": A, "norm": B})
    write(tmp_path / "model.safetensors", HF)
    with pytest.raises(gradtool.SameTensorsError):
        gradtool.measure(tmp_path)


@pytest.mark.parametrize("prefix", ["", "model.", "base_model.model."])
def test_weights_in_two_formats_are_no_sum_whatever_stands_before_their_names(
    tmp_path: Path, prefix: str
) -> None:
    write(tmp_path / "model.safetensors", {prefix + name: array for name, array in META.items()})
    write(tmp_path / "pytorch_model.bin", META)
    refused(tmp_path, "model.safetensors", "pytorch_model.bin")


def test_an_index_of_each_format_is_no_sum(tmp_path: Path) -> None:
    write_sharded(tmp_path, "model", "safetensors", HF)
    write_sharded(tmp_path, "pytorch_model", "bin", HF)
    refused(tmp_path, "model.safetensors.index.json", "pytorch_model.bin.index.json")


def test_the_original_below_a_release_is_said_and_not_added(tmp_path: Path) -> None:
    write_sharded(tmp_path, "model", "safetensors", HF)
    for rank in range(2):
        write(tmp_path / "original" / f"consolidated.{rank:02}.pth", META)
    found = gradtool.measure(tmp_path)
    assert [one.name for one in found.tensors] == list(HF)
    assert any("original/" in note for note in found.essential_notes)


def test_weights_of_other_modules_belong_together(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", HF)
    write(tmp_path / "pytorch_model.bin", {"head.weight": A, "head.bias": B})
    write(tmp_path / "adapter_model.safetensors", {"head.weight.lora": A, "head.bias.lora": B})
    assert len(gradtool.measure(tmp_path).tensors) == 6


def test_files_named_like_shards_that_repeat_a_tensor_say_which_makes_them_ranks(
    tmp_path: Path,
) -> None:
    write(tmp_path / "m-00001-of-00002.safetensors", {"a": A, "tied": B})
    write(tmp_path / "m-00002-of-00002.safetensors", {"c": A, "tied": B})
    found = gradtool.measure(tmp_path)
    assert found.total is not None
    assert found.total.norm == pytest.approx(np.sqrt(9 + 9 + 16), rel=1e-15)
    assert any("shards" in note and "'tied'" in note for note in found.essential_notes)
    write(tmp_path / "m-00002-of-00002.safetensors", {"c": A, "tied": B + 1})
    with pytest.raises(gradtool.RanksQuestionError, match=r"'tied': .*shard 2"):
        gradtool.measure(tmp_path)
    write(tmp_path / "m-00002-of-00002.safetensors", {"c": A, "tied": A})
    with pytest.raises(gradtool.RanksQuestionError, match=r"'tied': .*shard 1.*shard 2"):
        gradtool.measure(tmp_path)
    with pytest.raises(gradtool.RanksDifferError, match=r"'tied': .*shard 1.*shard 2"):
        gradtool.measure(tmp_path, ranks="replica")


GRADS = {"layers.0.w": A, "layers.1.w": B}  # 3 and 4: their norm is 5, and 5 * sqrt(2) twice
WRAPPERS = ["module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."]


def renamed(names: str) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """The gradients, called as a pattern says."""
    return {names.format(name): array for name, array in GRADS.items()}


def refused_in_every_command(folder: Path, *words: str) -> None:
    for call in (
        lambda: gradtool.measure(folder),
        lambda: gradtool.measure(folder, include=["*layers?0?*w"]),
        lambda: gradtool.clip(folder, folder.with_name("out"), max_norm=1.0),
    ):
        with pytest.raises(gradtool.SameTensorsError) as caught:
            call()
        assert caught.value.exit_code == 2
        assert all(repr(word) in str(caught.value) for word in words), str(caught.value)
    assert not folder.with_name("out").exists()
    assert gradtool.check(folder).exit_code == 2


@pytest.mark.parametrize("wrapper", [*WRAPPERS, "module._orig_mod."])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_gradients_under_the_prefix_of_a_wrapper_are_the_same(
    tmp_path: Path, wrapper: str, suffix: str
) -> None:
    run = tmp_path / "run"
    write(run / "dump.pt", GRADS)
    write(run / f"dump_ddp.{suffix}", renamed(wrapper + "{}"))
    refused_in_every_command(run, "dump.pt", f"dump_ddp.{suffix}", wrapper)
    both = gradtool.measure(run, join=True).total
    assert both is not None
    assert both.norm == pytest.approx(5 * np.sqrt(2), rel=1e-15)


def test_a_wrapper_inside_names_and_one_tensor_of_many_are_told(tmp_path: Path) -> None:
    write(tmp_path / "run/dump.pt", GRADS)
    write(tmp_path / "run/ac.pt", {"layers.1._checkpoint_wrapped_module.w": B, "head": A})
    refused_in_every_command(
        tmp_path / "run", "dump.pt", "ac.pt", "_checkpoint_wrapped_module.", "layers.1.w"
    )


def test_ranks_beside_the_whole_that_has_no_prefix_are_the_same(tmp_path: Path) -> None:
    for rank in range(2):
        write(tmp_path / f"run/rank{rank}.pt", renamed("module.{}"))
    write(tmp_path / "run/full.pt", GRADS)
    refused_in_every_command(tmp_path / "run", "full.pt", "rank*.pt", "module.")


def test_gradients_under_any_other_prefix_are_the_same_if_shapes_are(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write(run / "dump.pt", GRADS)
    write(run / "whole.pt", renamed("model.{}"))
    refused_in_every_command(run, "dump.pt", "whole.pt", "model.")
    write(run / "whole.pt", {name: array[:1] for name, array in renamed("model.{}").items()})
    assert len(gradtool.measure(run).tensors) == 4


def test_prefixes_of_two_modules_are_no_reason_to_refuse(tmp_path: Path) -> None:
    names = ["encoder", "decoder", "my_decoder", "xdecoder"]
    for name in names:
        write(tmp_path / f"{name}.pt", renamed(f"{name}.{{}}"))
    total = gradtool.measure(tmp_path).total
    assert total is not None
    assert total.norm == 10.0


@pytest.mark.parametrize("separator", ["_", "-"])
@pytest.mark.parametrize("more", [{}, {"head": A}])
def test_a_file_for_each_tensor_beside_all_in_one_is_the_same(
    tmp_path: Path,
    separator: str,
    more: dict[str, np.ndarray],  # type: ignore[type-arg]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name, array in GRADS.items():
        np.save(run / f"{name.replace('.', separator)}.npy", array)
    np.savez(run / "all_grads.npz", **GRADS, **more)
    first = f"layers{separator}0{separator}w"
    refused_in_every_command(run, f"{first}.npy", "all_grads.npz", first, "layers.0.w")


def test_the_same_names_under_a_wrapper_are_no_refusal_where_kinds_or_shapes_differ(
    tmp_path: Path,
) -> None:
    write(tmp_path / "kinds/grads.pt", GRADS)
    write(tmp_path / "kinds/model.pt", renamed("module.{}"))
    found = gradtool.measure(tmp_path / "kinds")
    assert found.total is None
    assert {one.name: one.norm for one in found.sections} == {"grads": 5.0, "model": 5.0}
    write(tmp_path / "shapes/encoder.pt", {"module.weight": A})
    write(tmp_path / "shapes/decoder.pt", {"weight": B})
    total = gradtool.measure(tmp_path / "shapes").total
    assert total is not None
    assert total.norm == 5.0


def test_one_name_in_two_spellings_is_no_copy_of_a_file(tmp_path: Path) -> None:
    write(tmp_path / "one.pt", {"attn.q_w": A, "head": B})
    write(tmp_path / "two.pt", {"attn_q.w": A, "tail": B})
    assert len(gradtool.measure(tmp_path).tensors) == 4
