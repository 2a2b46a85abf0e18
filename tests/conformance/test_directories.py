"""Sharded checkpoints and plain directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import gradtool
from gradtool.core.names import every_name
from gradtool.formats import Opening, open_checkpoint

NONE = frozenset[str]().__contains__
"""The filter that lets no name through: whatever it leaves out is checked all the same."""

ONES = {name: np.ones(n, np.float32) for name, n in (("a", 4), ("b", 5), ("c", 16))}


def sharded(directory: Path, weight_map: dict[str, Any] | None = None) -> Path:
    directory.mkdir(exist_ok=True)
    save_file({"a": ONES["a"], "b": ONES["b"]}, directory / "model-00001-of-00002.safetensors")
    save_file({"c": ONES["c"]}, directory / "model-00002-of-00002.safetensors")
    default = {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00001-of-00002.safetensors",
        "c": "model-00002-of-00002.safetensors",
    }
    index = {"metadata": {"total_size": 100.0}, "weight_map": weight_map or default}
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    return path


def norm(path: Path) -> float:
    total = gradtool.measure(path).total
    assert total is not None
    return total.stats.norm


def test_an_index_and_its_directory_are_the_same_checkpoint(tmp_path: Path) -> None:
    index = sharded(tmp_path / "run")
    by_index, by_directory = gradtool.measure(index), gradtool.measure(tmp_path / "run")
    assert by_index.tensors == by_directory.tensors
    assert by_index.total == by_directory.total
    assert norm(index) == 5.0
    assert by_directory.format == "sharded"
    assert len(by_directory.files) == 3


def test_shards_may_be_symbolic_links(tmp_path: Path) -> None:
    sharded(tmp_path / "blobs")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in (tmp_path / "blobs").iterdir():
        (snapshot / file.name).symlink_to(file)
    assert norm(snapshot) == 5.0


def test_shards_of_torch_files_are_read_alike(tmp_path: Path) -> None:
    names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    torch.save({"a": torch.ones(4)}, tmp_path / names[0])
    torch.save({"b": torch.ones(5)}, tmp_path / names[1])
    index = {"weight_map": {"a": names[0], "b": names[1]}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert norm(tmp_path) == 3.0


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        ({"a": "../outside.safetensors"}, "'../outside.safetensors', which is no plain file name"),
        ({"a": "/etc/passwd"}, "no plain file name"),
        ({"a": ".."}, "no plain file name"),
        ({"a": ""}, "no plain file name"),
        ({"a": "x\0y"}, "no plain file name"),
        ({"a": 3}, "no plain file name"),
        ({"a": "gone.safetensors"}, "shard 'gone.safetensors' is missing"),
        ({"a": FIRST, "b": FIRST, "c": FIRST}, "'c': is not in its shard"),
        ({"a": FIRST, "b": SECOND, "c": SECOND}, f"{FIRST!r} has it"),
        ({"a": FIRST, "d": FIRST}, "no shard has it"),
        (["a"], "no weight_map"),
    ],
)
def test_an_index_that_lies_is_refused(weight_map: Any, words: str, tmp_path: Path) -> None:
    index = sharded(tmp_path / "run", weight_map)
    for wanted in (every_name, NONE):
        with pytest.raises(gradtool.InputError) as caught:
            open_checkpoint(str(index), Opening(wanted=wanted))
        assert words in str(caught.value)
        assert str(index) in str(caught.value)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    save_file({"c": ONES["c"], "a": ONES["a"]}, tmp_path / SECOND)
    for wanted in (every_name, NONE):
        with pytest.raises(gradtool.CorruptFileError, match="'a': is in two shards"):
            open_checkpoint(str(index), Opening(wanted=wanted))


def test_a_tensor_that_the_index_forgets_is_measured_and_noted(tmp_path: Path) -> None:
    index = sharded(tmp_path, {"a": FIRST, "c": SECOND})
    assert norm(index) == 5.0
    assert gradtool.measure(index).notes == ("tensors of the shards that are not in the index: 1",)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": {"a": 1, "a": 2}}', "{}", "\xff"])
def test_an_index_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(gradtool.CorruptFileError, match="the index"):
        gradtool.measure(path)


def test_files_with_names_of_their_own_keep_them(tmp_path: Path) -> None:
    save_file({"a": ONES["a"]}, tmp_path / "one.safetensors")
    np.savez(tmp_path / "two.npz", b=ONES["b"])
    torch.save({"c": torch.ones(16)}, tmp_path / "three.pt")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "trainer_state.json").write_text("{}")
    (tmp_path / ".hidden.pt").write_text("not read")
    measurement = gradtool.measure(tmp_path)
    assert sorted(t.name for t in measurement.tensors) == ["a", "b", "c"]
    assert norm(tmp_path) == 5.0
    assert measurement.format == "directory"


def test_the_order_is_the_models_where_one_file_or_an_index_says_so(tmp_path: Path) -> None:
    run, shards = tmp_path / "run", ("a.bin", "b.bin")
    run.mkdir()
    layers = [f"h.{layer}" for layer in (2, 10, 1)]
    torch.save({name: torch.ones(1) for name in layers}, run / "a.bin")
    assert [t.name for t in gradtool.measure(run).in_order] == layers
    torch.save({"h.0": torch.ones(1)}, run / "b.bin")
    assert [t.name for t in gradtool.measure(run).in_order] == ["h.0", "h.1", "h.2", "h.10"]
    weight_map = {**dict.fromkeys(layers, shards[0]), "h.0": shards[1]}
    (run / "x.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert [t.name for t in gradtool.measure(run).in_order] == [*layers, "h.0"]
    (run / "b.bin").unlink()
    save_file({"h.0": ONES["a"]}, run / "b.bin")
    assert not gradtool.measure(run).in_model_order


def test_shards_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    weight_map = {f"h.{n}": f"pytorch_model-{n}-of-12.bin" for n in range(1, 13)}
    for name, shard in weight_map.items():
        torch.save({name: torch.ones(1)}, tmp_path / shard)
    (tmp_path / "x.index.json").write_text(json.dumps({"weight_map": weight_map}))
    found = gradtool.measure(tmp_path)
    assert found.in_model_order
    assert [tensor.name for tensor in found.in_order] == list(weight_map)


def test_a_trainers_directory_is_told_apart_by_its_file_names(tmp_path: Path) -> None:
    save_file({"a": ONES["a"]}, tmp_path / "model.safetensors")
    layer = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(3)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    torch.save({"cpu": torch.get_rng_state()}, tmp_path / "rng_state.pth")
    measurement = gradtool.measure(tmp_path)
    assert measurement.total is None
    assert {s.name: s.kind for s in measurement.sections} == {
        "model": "weights",
        "optimizer.exp_avg": "optimizer",
        "optimizer.exp_avg_sq": "optimizer",
        "other": None,
    }


def test_a_broken_file_among_good_ones_is_an_error(tmp_path: Path) -> None:
    save_file({"a": ONES["a"]}, tmp_path / "good.safetensors")
    (tmp_path / "bad.pt").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(gradtool.CorruptFileError, match=r"bad\.pt"):
        gradtool.measure(tmp_path)
    (tmp_path / "bad.pt").write_bytes(b"nothing known")
    with pytest.raises(gradtool.UnknownFormatError, match=r"bad\.pt"):
        gradtool.measure(tmp_path)


def test_a_directory_without_tensors_is_an_empty_dump(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(gradtool.EmptyDumpError, match="holds no tensor file"):
        gradtool.measure(tmp_path)


def test_a_shard_of_a_distributed_checkpoint_is_named_as_what_it_is(tmp_path: Path) -> None:
    torch.save(torch.ones(3), tmp_path / "__0_0.distcp")
    with pytest.raises(gradtool.UnsupportedFormatError, match="distributed checkpoint") as caught:
        gradtool.measure(tmp_path / "__0_0.distcp")
    assert "give its directory" in str(caught.value)


def test_one_file_under_several_names_is_read_once(tmp_path: Path) -> None:
    save_file({"a": ONES["c"]}, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").hardlink_to(tmp_path / "a.safetensors")
    (tmp_path / "last.safetensors").symlink_to("a.safetensors")
    measurement = gradtool.measure(tmp_path)
    assert [t.name for t in measurement.tensors] == ["a"]
    (note,) = measurement.notes
    assert "b.safetensors, last.safetensors" in note


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    save_file({"a": ONES["a"]}, tmp_path / "a.safetensors")
    (tmp_path / "model.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "global_step5").mkdir()
    assert gradtool.measure(tmp_path).notes == ("not read: model.h5, global_step5/",)


@pytest.mark.parametrize("name", ["b.safetensors", "B.PT"])
def test_a_dangling_link_named_like_a_tensor_file_is_an_error(name: str, tmp_path: Path) -> None:
    save_file({"a": ONES["a"]}, tmp_path / "a.safetensors")
    (tmp_path / name).symlink_to("pruned")
    with pytest.raises(gradtool.FileAccessError, match=name):
        gradtool.measure(tmp_path)


def test_files_of_one_stem_are_told_apart_by_their_whole_names(tmp_path: Path) -> None:
    save_file({"w": ONES["a"]}, tmp_path / "grads.safetensors")
    torch.save({"w": torch.ones(5)}, tmp_path / "grads.pt")
    with pytest.raises(gradtool.SameTensorsError, match=r"'grads\.pt' and 'grads\.safetensors'"):
        gradtool.measure(tmp_path)
    measurement = gradtool.measure(tmp_path, join=True)
    assert [t.name for t in measurement.tensors] == ["grads.pt.w", "grads.safetensors.w"]


def test_what_is_not_named_like_a_tensor_file_stops_nothing(tmp_path: Path) -> None:
    save_file({"a": ONES["a"]}, tmp_path / "a.safetensors")
    (tmp_path / "notes.txt").write_text("PK is how these notes begin")
    (tmp_path / "logs.gz").write_bytes(b"\x1f\x8b")
    assert gradtool.measure(tmp_path).notes == ("not read: logs.gz",)


def test_a_file_that_torch_reads_is_read_or_refused_whatever_it_is_called(tmp_path: Path) -> None:
    save_file({"a": ONES["a"]}, tmp_path / "a.safetensors")
    bad = torch.tensor([float("nan")])
    for zipped in (True, False):
        torch.save({1: bad, "1": bad}, tmp_path / "x.pkl", _use_new_zipfile_serialization=zipped)
        assert torch.load(tmp_path / "x.pkl", weights_only=True)
        with pytest.raises(gradtool.UnsupportedFormatError, match=r"x\.pkl"):
            gradtool.measure(tmp_path)
        torch.save({"w": bad}, tmp_path / "x.pkl", _use_new_zipfile_serialization=zipped)
        found = gradtool.measure(tmp_path)
        assert {tensor.name: tensor.stats.nan for tensor in found.tensors} == {"a": 0, "w": 1}
    (tmp_path / "x.pkl").write_bytes(b"PK\3\4 is how an archive begins")
    with pytest.raises(gradtool.CorruptFileError, match=r"x\.pkl"):
        gradtool.measure(tmp_path)


def test_a_lone_file_has_no_section_of_its_name(tmp_path: Path) -> None:
    save_file({"a": ONES["a"]}, tmp_path / "model.safetensors")
    assert [s.name for s in gradtool.measure(tmp_path).sections] == [""]


def test_names_that_stay_ambiguous_are_refused(tmp_path: Path) -> None:
    save_file({"c.w": ONES["a"]}, tmp_path / "a.safetensors")
    save_file({"w": ONES["a"]}, tmp_path / "a.c.safetensors")
    save_file({"c.w": ONES["a"]}, tmp_path / "b.safetensors")
    for wanted in (every_name, NONE):
        with pytest.raises(gradtool.UnsupportedFormatError, match=r"'a\.c\.w'"):
            open_checkpoint(str(tmp_path), Opening(wanted=wanted, join=True))


def test_a_number_without_end_in_an_index_is_told_as_such(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"metadata":{"total_size":' + "9" * 5000 + "}}")
    with pytest.raises(gradtool.CorruptFileError, match="a number of 5000 digits"):
        gradtool.measure(index)
