"""Sets of files are clipped as one checkpoint; ranks of their own each as if it were alone."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import close, exact_norm
from safetensors.numpy import load_file, save_file

import gradtool

files = settings(max_examples=8)
"""Each example writes and syncs files."""

VALUES = st.lists(st.floats(0.5, 4.0, width=16), min_size=1, max_size=4)


@contextmanager
def yard(scratch: Path) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(dir=scratch))
    try:
        yield place
    finally:
        shutil.rmtree(place)


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def save_ranks(run: Path, values: list[list[float]], *, folders: bool, torch_files: bool) -> None:
    """A file for each rank, or in a folder of its own, and something beside it."""
    for rank, numbers in enumerate(values):
        folder = run / f"rank_{rank}" if folders else run
        folder.mkdir(parents=True, exist_ok=True)
        array = np.float32(numbers)
        stem = "grads" if folders else f"rank{rank}"
        if torch_files:
            torch.save({"w": torch.from_numpy(array)}, folder / f"{stem}.pt")
        else:
            save_file({"w": array}, folder / f"{stem}.safetensors")
        (folder / "log.txt").write_text(f"of {rank}")


@files
@given(
    values=st.lists(VALUES, min_size=2, max_size=3),
    folders=st.booleans(),
    torch_files=st.booleans(),
    by_glob=st.booleans(),
    options=st.sampled_from(
        [
            {"max_norm": 1.0},
            {"max_norm": 2.0, "per_tensor": True},
            {"clip_value": 1.0},
            {"groups": {"w": 1.5}},
        ]
    ),
)
def test_each_rank_becomes_what_clipping_it_alone_makes_of_it(
    values: list[list[float]],
    folders: bool,
    torch_files: bool,
    by_glob: bool,
    options: dict[str, Any],
    scratch: Path,
) -> None:
    with yard(scratch) as place:
        run, out = place / "run", place / "out"
        save_ranks(run, values, folders=folders, torch_files=torch_files)
        source = run / "rank*" if by_glob else run
        outcome = gradtool.clip(source, out, ranks="each", **options)
        assert (outcome.clip_coef, outcome.norm_before, outcome.norm_after) == (None, None, None)
        assert [one.rank for one in outcome.ranks] == [f"rank {at}" for at in range(len(values))]
        wanted = {} if by_glob and not folders else content(run)
        for at, (one, numbers) in enumerate(zip(outcome.ranks, values, strict=True)):
            path = Path(one.before.path)
            alone = gradtool.clip(path, place / f"alone{at}", **options)
            assert (one.plan, one.norm_after) == (alone.plan, alone.norm_after)
            assert close(one.norm_before, exact_norm(numbers, 2.0))
            made = content(place / f"alone{at}") if folders else {}
            name = str(path.relative_to(run))
            wanted |= {f"{name}/{inner}": data for inner, data in made.items()}
            if not folders:
                wanted[name] = (place / f"alone{at}").read_bytes()
        assert content(out) == wanted


@files
@given(
    values=st.lists(VALUES, min_size=2, max_size=3),
    folders=st.booleans(),
    torch_files=st.booleans(),
    inside=st.booleans(),
    as_list=st.booleans(),
)
def test_a_set_that_is_named_is_clipped_as_its_directory_and_written_alone(
    values: list[list[float]],
    folders: bool,
    torch_files: bool,
    inside: bool,
    as_list: bool,
    scratch: Path,
) -> None:
    with yard(scratch) as place:
        run, whole = place / "run", place / "whole"
        save_ranks(run, values, folders=folders, torch_files=torch_files)
        options: dict[str, Any] = {"max_norm": 1.0, "ranks": "shard"}
        directory = gradtool.clip(run, whole, **options)
        (run / "model.safetensors").write_bytes(b"nothing that can be read")
        out = run / "out" if inside else place / "out"
        source = sorted(run.glob("rank*")) if as_list else run / "rank*"
        outcome = gradtool.clip(source, out, **options)
        assert (outcome.plan, outcome.norm_after) == (directory.plan, directory.norm_after)
        made = content(whole)
        wanted = made if folders else {n: d for n, d in made.items() if n.startswith("rank")}
        assert content(out) == wanted
        assert outcome.norm_before == directory.norm_before


def test_shards_that_are_named_are_clipped_by_their_common_norm(tmp_path: Path) -> None:
    names = [f"m-0000{at}-of-00002.safetensors" for at in (1, 2)]
    for name, tensor, value in zip(names, "ab", (3.0, 4.0), strict=True):
        save_file({tensor: np.float32([value])}, tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    tmp_path.chmod(0o1777)  # as that of /tmp is: what is written there is nobody else's to change
    outcome = gradtool.clip(tmp_path / "m-*.safetensors", tmp_path / "out", max_norm=2.5, eps=0)
    assert (outcome.clip_coef, outcome.norm_before) == (0.5, 5.0)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert (tmp_path / "out").stat().st_mode & 0o1022 == 0
    assert load_file(tmp_path / "out" / names[0])["a"].tolist() == [1.5]
    assert load_file(tmp_path / "out" / names[1])["b"].tolist() == [2.0]


def test_files_of_one_name_in_folders_of_ranks_keep_their_folders(tmp_path: Path) -> None:
    for rank in range(2):
        folder = tmp_path / f"rank{rank}"
        folder.mkdir()
        save_file({"w": np.float32([3.0, 4.0])}, folder / "grads.safetensors")
        (folder / "log.txt").write_text("a log")
    gradtool.clip(tmp_path / "rank*/grads.safetensors", tmp_path / "out", max_norm=2.5, eps=0)
    assert sorted(content(tmp_path / "out")) == [f"rank{at}/grads.safetensors" for at in range(2)]
    for rank in range(2):
        after = load_file(tmp_path / "out" / f"rank{rank}" / "grads.safetensors")
        assert after["w"].tolist() == [1.5, 2.0]


@pytest.mark.parametrize("glob", ["", "rank*"])
def test_one_rank_that_is_refused_leaves_nothing_written(glob: str, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    save_ranks(run, [[3.0], [4.0, math.nan], [5.0]], folders=False, torch_files=False)
    before = content(tmp_path)
    with pytest.raises(gradtool.NonFiniteError, match=r"rank1\.safetensors: .*'w' \(1 NaN"):
        gradtool.clip(run / glob, out, max_norm=1.0, ranks="each")
    assert content(tmp_path) == before
    assert not out.exists()
    outcome = gradtool.clip(run / glob, out, max_norm=1.0, eps=0, ranks="each", nonfinite="zero")
    assert [one.plan.nonfinite_replaced for one in outcome.ranks] == [0, 1, 0]
    assert outcome.nonfinite_replaced == 1
    assert [one.clip_coef for one in outcome.ranks] == [1 / 3, 1 / 4, 1 / 5]


def test_a_rank_that_does_not_change_is_copied(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    save_ranks(run, [[0.5], [4.0]], folders=False, torch_files=False)
    outcome = gradtool.clip(run, out, max_norm=1.0, eps=0, ranks="each")
    assert [one.clip_coef for one in outcome.ranks] == [1.0, 0.25]
    assert content(out)["rank0.safetensors"] == content(run)["rank0.safetensors"]
    assert load_file(out / "rank1.safetensors")["w"].tolist() == [1.0]


def test_ranks_by_themselves_may_be_fewer_and_note_what_they_like(tmp_path: Path) -> None:
    for rank in (0, 3):
        noted = {"gradtool.dump": "1", "gradtool.loss_scale": str(2.0 + rank)}
        path = tmp_path / "run" / f"rank{rank}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file({"w": np.float32([4.0])}, path, noted)
    outcome = gradtool.clip(tmp_path / "run", tmp_path / "out", max_norm=1.0, eps=0, ranks="each")
    assert [one.rank for one in outcome.ranks] == ["rank 0", "rank 3"]
    assert [one.before.loss_scale for one in outcome.ranks] == [2.0, 5.0]
    assert [one.norm_before for one in outcome.ranks] == [2.0, 0.8]
    assert outcome.loss_scale is None
    with pytest.raises(TypeError, match="see `ranks`"):
        _ = outcome.before


def test_others_of_ranks_are_clipped_by_their_own_norms_too(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    for rank, loss in enumerate((2.0, 4.0)):
        tree = {"grads": {"w": torch.ones(1)}, "loss": torch.tensor(loss)}
        torch.save(tree, run / f"rank{rank}.pt")
    gradtool.clip(run, out, max_norm=1.0, eps=0, section="other", per_tensor=True)
    after = [torch.load(out / f"rank{rank}.pt") for rank in range(2)]
    assert [tree["loss"].item() for tree in after] == [1.0, 1.0]
    assert [tree["grads"]["w"].item() for tree in after] == [1.0, 1.0]


def test_several_dumps_that_are_named_are_never_read_as_the_first_of_them(tmp_path: Path) -> None:
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path in paths:
        save_file({path.stem: np.float32([3.0])}, path)
    for act in (gradtool.measure, lambda names: gradtool.clip(names, max_norm=1.0, dry_run=True)):
        with pytest.raises(gradtool.SeveralCheckpointsError) as caught:
            act(paths)
        assert [one.path for one in caught.value.found] == [str(path) for path in paths]
