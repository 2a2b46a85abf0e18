"""Links and hard links: further names of files, which count once under the name that tells most."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import gradtool

A, NAN = np.float32([3.0, 4.0]), np.float32([np.nan, 1.0])


def dump(path: Path, name: str = "a", values: object = A) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: values}, path)  # type: ignore[dict-item]
    return path


def symbolic(target: Path, link: Path) -> None:
    link.symlink_to(os.path.relpath(target, link.parent))


WAYS = [symbolic, os.link]


def ways_to_name(folder: Path, deep: str = "") -> list[list[object]]:
    """A directory, a glob of all in it, and all the paths that a shell would make of that."""
    pattern = f"{deep}*.safetensors"
    return [[folder], [f"{folder}/{pattern}"], sorted(folder.glob(pattern))]


def judged(sources: list[object], most: int = 0) -> tuple[int, list[int | None]]:
    thresholds = {"GT103.max_consecutive": most} if most else {}
    outcome = gradtool.check(*sources, thresholds=thresholds)
    return outcome.exit_code, [one.step for one in outcome.verdicts]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["first", "zz", "model-00001"])
def test_a_shard_of_two_names_is_that_shard(
    way: Callable[[Path, Path], None], name: str, tmp_path: Path
) -> None:
    for number in (1, 2):
        dump(tmp_path / f"model-0000{number}-of-00002.safetensors", f"a{number}")
    way(tmp_path / "model-00001-of-00002.safetensors", tmp_path / f"{name}.safetensors")
    for sources in ways_to_name(tmp_path):
        found = gradtool.measure(sources[0] if len(sources) == 1 else sources)
        assert found.total.norm == 50**0.5
        assert found.format == "sharded"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["latest", "zz"])
def test_a_rank_of_two_names_is_that_rank(
    way: Callable[[Path, Path], None], name: str, tmp_path: Path
) -> None:
    for rank in range(2):
        dump(tmp_path / f"rank_{rank}.safetensors")
    way(tmp_path / "rank_0.safetensors", tmp_path / f"{name}.safetensors")
    way(tmp_path / "rank_0.safetensors", tmp_path / "rank_2.safetensors")
    for sources in ways_to_name(tmp_path):
        found = gradtool.measure(sources[0] if len(sources) == 1 else sources)
        assert found.total.norm == 5.0
        assert "3 ranks" in found.essential_notes


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("names", [["best"], ["latest", "best"], ["zz"]])
def test_a_step_of_two_names_is_that_step(
    way: Callable[[Path, Path], None], names: list[str], tmp_path: Path
) -> None:
    for step in (10, 20, 30):
        dump(tmp_path / f"step_{step}.safetensors", values=A if step == 20 else NAN)
    for name in names:
        way(tmp_path / "step_10.safetensors", tmp_path / f"{name}.safetensors")
    for sources in ways_to_name(tmp_path):
        assert judged(sources) == (1, [10, 20, 30])
        assert judged(sources, most=1) == (0, [10, 20, 30])
    with pytest.raises(gradtool.SeveralCheckpointsError) as caught:
        gradtool.measure(tmp_path)
    assert [one.step for one in caught.value.found] == [10, 20, 30]
    out = tmp_path / "baseline.json"
    for name in ("step_10", "step_30"):
        (tmp_path / f"{name}.safetensors").write_bytes(
            (tmp_path / "step_20.safetensors").read_bytes()
        )
    assert len(gradtool.save_baseline(f"{tmp_path}/*.safetensors", out).dumps) == 3


def test_a_single_step_and_its_links_have_the_name_of_the_file(tmp_path: Path) -> None:
    dump(tmp_path / "step_10.safetensors")
    for name in ("best", "step_last"):
        (tmp_path / f"{name}.safetensors").symlink_to("step_10.safetensors")
    for sources in ways_to_name(tmp_path):
        outcome = gradtool.check(*sources)
        assert len(outcome.verdicts) == 1
    assert judged([f"{tmp_path}/*.safetensors"]) == (0, [10])


@pytest.mark.parametrize("last", ["step_last", "latest", "a"])
def test_the_folder_of_a_step_of_two_names_is_that_step(last: str, tmp_path: Path) -> None:
    for step in (10, 20, 30):
        dump(tmp_path / f"step_{step}" / "grads.safetensors", values=NAN if step == 30 else A)
    (tmp_path / last).symlink_to("step_30")
    sources: list[list[object]] = [
        [f"{tmp_path}/*"],
        sorted(tmp_path.iterdir()),
        *ways_to_name(tmp_path, "*/"),
        [f"{tmp_path}/**/*.safetensors"],
    ]
    for given_ in sources:
        assert judged(given_, most=1) == (0, [10, 20, 30])


def test_hard_links_in_several_folders_are_files_of_each(tmp_path: Path) -> None:
    first = dump(tmp_path / "step_1" / "g.safetensors")
    for name in ("step_2", "step_3"):
        (tmp_path / name).mkdir()
        os.link(first, tmp_path / name / "g.safetensors")
    for sources in ways_to_name(tmp_path, "*/"):
        assert judged(sources) == (0, [1, 2, 3])


def test_what_is_named_twice_in_the_same_words_is_meant_twice(tmp_path: Path) -> None:
    path = dump(tmp_path / "g.safetensors")
    (tmp_path / "link.safetensors").symlink_to(path.name)
    assert len(gradtool.check(path, path).verdicts) == 2
    assert len(gradtool.check(path, tmp_path / "link.safetensors").verdicts) == 1
    (verdict,) = gradtool.check(tmp_path / "link.safetensors").verdicts
    assert verdict.path == str(tmp_path / "link.safetensors")


@given(
    st.sets(st.integers(0, 99), min_size=2, max_size=4),
    st.lists(
        st.tuples(st.sampled_from(["best", "latest", "a", "zz", "x2y"]), st.integers(0, 3)),
        unique_by=lambda link: link[0],
    ),
    st.integers(0, 15),
    st.sampled_from(WAYS),
)
def test_links_change_nothing_in_a_directory_nor_in_a_glob(
    scratch: Path,
    steps: set[int],
    links: list[tuple[str, int]],
    bad: int,
    way: Callable[[Path, Path], None],
) -> None:
    folder = scratch / f"links{len(list(scratch.iterdir()))}"
    files = []
    for at, step in enumerate(sorted(steps)):
        values = NAN if bad >> at & 1 else A
        files.append(dump(folder / f"step_{step}.safetensors", values=values))
    before = [judged(sources, most=1) for sources in ways_to_name(folder)]
    for name, target in links:
        way(files[target % len(files)], folder / f"{name}.safetensors")
    after = [judged(sources, most=1) for sources in ways_to_name(folder)]
    assert [*before, *after] == [before[0]] * 6


@pytest.mark.parametrize("name", ["checkpoint{}", "epoch{}", "step_{}", "{}"])
@pytest.mark.parametrize("copy", ["checkpoint_last", "best"])
def test_a_copy_without_a_step_is_no_further_step_in_a_row(
    name: str, copy: str, tmp_path: Path
) -> None:
    for step in (1, 2):
        dump(tmp_path / f"{name.format(step)}.safetensors", values=NAN if step == 2 else A)
    last = (tmp_path / f"{name.format(2)}.safetensors").read_bytes()
    (tmp_path / f"{copy}.safetensors").write_bytes(last)
    for sources in ways_to_name(tmp_path):
        outcome = gradtool.check(*sources, thresholds={"GT103.max_consecutive": 1})
        assert (outcome.exit_code, outcome.findings) == (0, ())
        severities = [[one.severity for one in v.findings] for v in outcome.verdicts]
        assert sorted(severities) == [[], ["warning"], ["warning"]]
    dump(tmp_path / f"{name.format(3)}.safetensors", values=NAN)
    for sources in ways_to_name(tmp_path):
        outcome = gradtool.check(*sources, thresholds={"GT103.max_consecutive": 1})
        (finding,) = outcome.findings
        assert "2 steps in a row" in finding.message
        assert outcome.exit_code == 1
