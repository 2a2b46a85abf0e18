"""Clipped directories: the same names, all that is no gradient untouched, links resolved."""

from __future__ import annotations

import fcntl
import json
import math
import os
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from oracle import close

import gradtool

FIRST, SECOND = "grads-00001-of-00002.safetensors", "grads-00002-of-00002.safetensors"
INDEX = "grads.safetensors.index.json"
COEF = 1 / 4

HOME = {"a": FIRST, "b": FIRST, "c": SECOND}


def tensors() -> dict[str, torch.Tensor]:
    """Of norm 5 together; all that is computed with them is exact."""
    return {
        "a": torch.full((4,), 0.5),
        "b": torch.full((8,), 1.0, dtype=torch.bfloat16),
        "c": torch.full((4, 4), -1.0, dtype=torch.float64),
    }


def write_index(directory: Path, name: str, home: dict[str, str]) -> Path:
    index = {"metadata": {"total_size": 100}, "weight_map": home}
    path = directory / name
    path.write_text(json.dumps(index, indent=2) + "\n")
    return path


def write_shards(directory: Path) -> None:
    for shard in (FIRST, SECOND):
        inside = {name: t for name, t in tensors().items() if HOME[name] == shard}
        safetensors.torch.save_file(inside, directory / shard, {"format": "pt"})


def transformers_style(directory: Path) -> Path:
    """What `save_pretrained` leaves, and things that people put beside it."""
    directory.mkdir()
    write_shards(directory)
    write_index(directory, INDEX, HOME)
    (directory / "config.json").write_text('{"hidden": 8}')
    (directory / "README.md").write_text("# A model\n")
    (directory / "empty").touch()
    (directory / ".hidden").write_text("hidden")
    (directory / "sub" / "deeper").mkdir(parents=True)
    (directory / "sub" / "deeper" / "notes.txt").write_text("notes")
    (directory / "sub" / "weights.safetensors").write_bytes((directory / FIRST).read_bytes())
    (directory / "run.sh").write_text("true")
    (directory / "run.sh").chmod(0o750)
    (directory / FIRST).chmod(0o640)
    (directory / "sub").chmod(0o711)
    return directory


def tree(directory: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


def modes(directory: Path) -> dict[str, int]:
    return {
        str(path.relative_to(directory)): stat.S_IMODE(path.stat().st_mode)
        for path in directory.rglob("*")
    }


def bounded() -> dict[str, Any]:
    """Options that scale everything by a quarter exactly."""
    squares = [x * x for t in tensors().values() for x in t.double().flatten().tolist()]
    norm = math.sqrt(math.fsum(squares))
    assert norm == 5.0
    return {"max_norm": 5 * COEF, "eps": 0}


def assert_quartered(directory: Path, home: dict[str, str] = HOME) -> None:
    for shard in set(home.values()):
        loaded = safetensors.torch.load_file(directory / shard)
        for name, tensor in loaded.items():
            assert torch.equal(tensor, tensors()[name] * COEF)
            assert tensor.dtype == tensors()[name].dtype


@pytest.mark.parametrize("by_index", [False, True])
def test_a_sharded_checkpoint_becomes_a_directory_of_the_same_files(
    by_index: bool, tmp_path: Path
) -> None:
    run, out = transformers_style(tmp_path / "run"), tmp_path / "out"
    before = tree(run)
    outcome = gradtool.clip(run / INDEX if by_index else run, out, **bounded())
    assert outcome.clip_coef == COEF
    assert outcome.norm_after is not None
    assert close(outcome.norm_after, 5 * COEF)
    assert_quartered(out)
    after = tree(out)
    assert sorted(after) == sorted(before)
    shards = {FIRST, SECOND}
    assert {n: c for n, c in after.items() if n not in shards} == {
        n: c for n, c in before.items() if n not in shards
    }
    assert modes(out) == modes(run)
    assert tree(run) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "run"]


def test_shards_are_the_bytes_that_the_library_would_have_saved(tmp_path: Path) -> None:
    run, out = transformers_style(tmp_path / "run"), tmp_path / "out"
    gradtool.clip(run, out, **bounded())
    for shard in (FIRST, SECOND):
        inside = {n: t * COEF for n, t in tensors().items() if HOME[n] == shard}
        safetensors.torch.save_file(inside, tmp_path / "expected", {"format": "pt"})
        assert (out / shard).read_bytes() == (tmp_path / "expected").read_bytes()


def test_shards_of_torch_are_scaled_too(tmp_path: Path) -> None:
    run, out, expected = (tmp_path / name for name in ("run", "out", "expected"))
    run.mkdir()
    expected.mkdir()
    home = {"a": "shard-1.bin", "b": "shard-1.bin", "c": "shard-2.bin"}
    for shard in set(home.values()):
        inside = {name: t for name, t in tensors().items() if home[name] == shard}
        torch.save(inside, run / shard)
        torch.save({name: t * COEF for name, t in inside.items()}, expected / shard)
    write_index(run, "shard.bin.index.json", home)
    gradtool.clip(run, out, **bounded())
    for shard in set(home.values()):
        assert (out / shard).read_bytes() == (expected / shard).read_bytes()


def test_a_filter_leaves_shards_that_it_does_not_reach_as_they_are(tmp_path: Path) -> None:
    run, out = transformers_style(tmp_path / "run"), tmp_path / "out"
    gradtool.clip(run, out, max_norm=1, eps=0, include="c")
    assert (out / FIRST).read_bytes() == (run / FIRST).read_bytes()
    found = safetensors.torch.load_file(out / SECOND)["c"]
    assert torch.equal(found, tensors()["c"] / 4)


def test_a_snapshot_of_the_hugging_face_cache_becomes_plain_files(tmp_path: Path) -> None:
    repository = tmp_path / "models--x"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    made = transformers_style(tmp_path / "made")
    names = [INDEX, FIRST, SECOND, "config.json", "README.md"]
    for i, name in enumerate(names):
        (made / name).rename(blobs / f"{i:040x}")
        (snapshot / name).symlink_to(f"../../blobs/{i:040x}")
    before = tree(blobs)
    out = tmp_path / "out"
    outcome = gradtool.clip(snapshot, out, **bounded())
    assert outcome.clip_coef == COEF
    assert sorted(p.name for p in out.iterdir()) == sorted(names)
    assert not any(path.is_symlink() for path in out.iterdir())
    assert_quartered(out)
    for name in (INDEX, "config.json", "README.md"):
        assert (out / name).read_bytes() == (snapshot / name).read_bytes()
    assert tree(blobs) == before
    again = gradtool.clip(snapshot / INDEX, tmp_path / "again", **bounded())
    assert again.clip_coef == COEF
    assert tree(tmp_path / "again") == tree(out)


@pytest.mark.parametrize("kind", ["hard link", "link", "absolute link"])
@pytest.mark.parametrize("name", ["zz-last.safetensors", "00-first.safetensors", "no-suffix"])
def test_another_name_of_a_shard_is_another_name_of_the_clipped_one(
    kind: str, name: str, tmp_path: Path
) -> None:
    run, out = transformers_style(tmp_path / "run"), tmp_path / "out"
    if kind == "hard link":
        (run / name).hardlink_to(run / FIRST)
    else:
        (run / name).symlink_to(run / FIRST if kind == "absolute link" else FIRST)
    old = (run / FIRST).read_bytes()
    outcome = gradtool.clip(run, out, **bounded())
    assert outcome.tensors_changed == 3
    assert_quartered(out)
    assert (out / name).read_bytes() == (out / FIRST).read_bytes() != old
    assert (out / name).samefile(out / FIRST)
    assert (run / FIRST).read_bytes() == old
    assert set(tree(out)) == set(tree(run))


@pytest.mark.parametrize("name", ["zz.safetensors", "00.safetensors"])
def test_another_name_of_a_lone_file_is_another_name_of_the_clipped_one(
    name: str, tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    safetensors.torch.save_file({"w": torch.tensor([3.0, 4.0])}, run / "grads.safetensors")
    (run / name).symlink_to("grads.safetensors")
    gradtool.clip(run, out, max_norm=2.5, eps=0)
    for one in ("grads.safetensors", name):
        loaded = safetensors.torch.load_file(out / one)
        assert loaded["w"].tolist() == [1.5, 2.0]


@pytest.mark.parametrize("locked", [False, True])
def test_a_workspace_in_the_directory_is_not_copied_along(locked: bool, tmp_path: Path) -> None:
    run, out = transformers_style(tmp_path / "run"), tmp_path / "out"
    names = sorted(tree(run))
    workspace = run / ".gradtool-0123456789abcdef.tmp"
    workspace.mkdir()
    (workspace / FIRST).write_bytes(b"half of it")
    descriptor = os.open(workspace, os.O_RDONLY)
    try:
        if locked:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        gradtool.clip(run, out, **bounded())
    finally:
        os.close(descriptor)
    assert sorted(tree(out)) == names
    assert_quartered(out)
    assert (workspace / FIRST).read_bytes() == b"half of it"


@pytest.mark.parametrize("sibling", ["run-2", "run2", "elsewhere"])
def test_a_link_to_a_file_beside_the_directory_becomes_a_file_if_asked_to(
    sibling: str, tmp_path: Path
) -> None:
    run, out = transformers_style(tmp_path / "run"), tmp_path / "out"
    (tmp_path / sibling).mkdir()
    (tmp_path / sibling / "vocab.txt").write_text("words")
    (run / "vocab.txt").symlink_to(f"../{sibling}/vocab.txt")
    (run / "sub" / "words").symlink_to(tmp_path / sibling / "vocab.txt")
    with pytest.raises(gradtool.UsageError, match="`follow_links=True` copies"):
        gradtool.clip(run, out, **bounded())
    gradtool.clip(run, out, follow_links=True, **bounded())
    for copy in (out / "vocab.txt", out / "sub" / "words"):
        assert not copy.is_symlink()
        assert copy.read_text() == "words"
    assert sorted(tree(out)) == sorted(tree(run))


def test_a_directory_of_several_dumps_is_clipped_by_one_norm(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    ones = {name: np.ones(n, np.float32) for name, n in (("a", 1), ("b", 4), ("c", 4), ("d", 16))}
    safetensors.torch.save_file({"a": torch.from_numpy(ones["a"])}, run / "one.safetensors")
    np.savez(run / "two.npz", b=ones["b"])
    np.savez_compressed(run / "three.npz", c=ones["c"], step=np.arange(3))
    np.save(run / "single.npy", ones["d"])
    torch.save({"e": torch.zeros(3)}, run / "four.pt")
    (run / "log.txt").write_text("a log")
    outcome = gradtool.clip(run, out, max_norm=1.25, eps=0)
    assert outcome.norm_before == 5.0
    assert outcome.clip_coef == COEF
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in run.iterdir())
    assert safetensors.torch.load_file(out / "one.safetensors")["a"].tolist() == [COEF]
    with np.load(out / "two.npz") as archive:
        assert archive["b"].tolist() == [COEF] * 4
    with np.load(out / "three.npz") as archive:
        assert archive["c"].tolist() == [COEF] * 4
        assert archive["step"].tolist() == [0, 1, 2]
    with zipfile.ZipFile(out / "three.npz") as archive:
        assert archive.testzip() is None
    assert np.load(out / "single.npy").tolist() == [COEF] * 16
    for name in ("four.pt", "log.txt"):
        assert (out / name).read_bytes() == (run / name).read_bytes()


def test_files_that_use_the_same_names_are_filtered_by_their_own(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    for rank in range(3):
        torch.save({"w": torch.ones(4)}, run / f"{'abc'[rank]}.pt")
    gradtool.clip(run, out, max_norm=1, eps=0, exclude="b.*", join=True)
    found = [torch.load(out / f"{name}.pt")["w"][0].item() for name in "abc"]
    assert found == pytest.approx([8**-0.5, 1.0, 8**-0.5], rel=1e-6)
    assert (out / "b.pt").read_bytes() == (run / "b.pt").read_bytes()


def test_an_empty_directory_takes_the_result_if_asked_to(tmp_path: Path) -> None:
    run, out = transformers_style(tmp_path / "run"), tmp_path / "out"
    out.mkdir()
    with pytest.raises(gradtool.UsageError, match="exists"):
        gradtool.clip(run, out, **bounded())
    assert list(out.iterdir()) == []
    gradtool.clip(run, out, force=True, **bounded())
    assert_quartered(out)


def test_a_trailing_slash_and_a_relative_path_name_the_same_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers_style(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    gradtool.clip("run/", "out/", **bounded())
    assert_quartered(tmp_path / "out")
    monkeypatch.chdir(tmp_path / "run")
    gradtool.clip(INDEX, "../again", **bounded())
    assert_quartered(tmp_path / "again")
    gradtool.clip(".", "../third", **bounded())
    assert_quartered(tmp_path / "third")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "out", "run", "third"]
