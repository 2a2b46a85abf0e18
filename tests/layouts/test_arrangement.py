"""Laws of names: which files make up one checkpoint, and which is missing."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import gradtool
from gradtool.errors import MissingShardError
from gradtool.formats.layouts.arrangement import (
    Unit,
    are_modules,
    arranged,
    runs_among,
)
from gradtool.formats.layouts.names.gaps import refuse_faults

RANKS = ["rank{}", "rank_{}", "rank={}", "gpu{}", "rank_{:02}", "mp_rank_{:02}"]
SHARDS = ["model-{:05}-of-{:05}", "pytorch_model-{}-of-{}", "x_{:03}_of_{:03}"]
STEPS = ["step{}", "step_{:06}", "checkpoint-{}", "global_step{}", "iter_{:07}", "grads_{:04}"]
JOINS = ["/", "_", "-"]


@st.composite
def trainings(draw: st.DrawFn) -> dict[tuple[int, int, int], str]:
    """The names that a trainer gives its files, by the step, rank and shard that each is of."""
    steps = draw(st.lists(st.integers(0, 999), min_size=1, max_size=3, unique=True))
    ranks, shards = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    first = draw(st.integers(0, 1))
    step, rank, shard = map(draw, map(st.sampled_from, (STEPS, RANKS, SHARDS)))
    before, after = draw(st.sampled_from(JOINS)), draw(st.sampled_from(JOINS))
    return {
        (s, r, k): before.join([step.format(s), rank.format(r)])
        + f"{after}{shard.format(k + first, shards)}.pt"
        for s in steps
        for r in range(ranks)
        for k in range(shards)
    }


def entries_of(units: list[Unit]) -> set[frozenset[str]]:
    return {frozenset(unit.entries) for unit in units}


@given(trainings(), st.randoms())
def test_files_of_one_step_are_one_checkpoint(
    names: dict[tuple[int, int, int], str], random: st.DataObject
) -> None:
    by_step: dict[int, set[str]] = {}
    for (step, _, _), name in names.items():
        by_step.setdefault(step, set()).add(name)
    given_names = list(names.values())
    random.shuffle(given_names)  # type: ignore[attr-defined]
    units = arranged(given_names)
    assert entries_of(units) == set(map(frozenset, by_step.values()))
    assert {unit.step for unit in units} == set(by_step)
    if len(by_step) > 1:
        (run,) = runs_among(units)
        assert [unit.step for unit in run] == sorted(by_step)
    for unit in units:
        if unit.kind != "entry":
            refuse_faults(unit, "here")


@given(trainings(), st.data())
def test_the_one_that_is_missing_is_named(
    names: dict[tuple[int, int, int], str], data: st.DataObject
) -> None:
    step = next(iter(names))[0]
    here = {key: name for key, name in names.items() if key[0] == step}
    lost = data.draw(st.sampled_from(sorted(here)))
    is_last_rank = lost[1] == max(rank for _, rank, _ in here)
    alone = len({shard for _, _, shard in here}) == 1
    if len(here) == 1 or (is_last_rank and alone):
        return  # nothing tells how many ranks there were
    name = here.pop(lost)
    units = arranged(here.values())
    with pytest.raises(MissingShardError) as caught:
        for unit in units:
            for part in (unit, *unit.members):
                if part.kind != "entry":
                    refuse_faults(part, "here")
    counts_from_zero = "0-of" in name or "_000_of" in name
    if not counts_from_zero:  # of 1 of 2 it may be 0 or 2 that is missing
        assert repr(name) in str(caught.value) or "rank" in str(caught.value)


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["model-00001-of-00004.bin", "model-00004-of-00004.bin"], "model-00002-of-00004.bin"),
        (["model-00000-of-00003.bin", "model-00001-of-00003.bin"], "model-00002-of-00003.bin"),
        (["model-00002-of-00002.bin"], "model-00001-of-00002.bin"),
        (["rank0.pt", "rank1.pt", "rank3.pt"], "rank2.pt"),
        (["rank1.pt", "rank2.pt"], "rank0.pt"),
        (["w_size_2.pt", "model_world_size_3_rank_0.pt"], "model_world_size_3_rank_1.pt"),
        ([f"model_world_size_4_rank_{r}.pt" for r in range(3)], "model_world_size_4_rank_3.pt"),
        (["mp_rank_00_000.pt", "mp_rank_00_001.pt", "mp_rank_01_001.pt"], "mp_rank_01_000.pt"),
        (["zero_pp_rank_1_mp_rank_00.pt", "zero_pp_rank_2_mp_rank_00.pt"], "zero_pp_rank_0_mp_"),
        (["__0_0.x", "__2_0.x"], "__1_0.x"),
        (["a-1-of-999999999999999999.pt"], "a-2-of-999999999999999999.pt"),
        (["rank0.pt", "rank999999999999999.pt"], "rank1.pt"),
    ],
)
def test_a_missing_number_is_named(names: list[str], missing: str) -> None:
    with pytest.raises(MissingShardError, match=missing):
        for unit in arranged(names):
            if unit.kind != "entry":
                refuse_faults(unit, "here")


@pytest.mark.parametrize(
    ("names", "are_a_run"),
    [
        (["grads_0001.pt", "grads_0002.pt"], True),
        (["1.npy", "2.npy"], True),
        (["epoch=1-step=10.ckpt", "epoch=2-step=20.ckpt"], True),
        (["part-1.pt", "part-2.pt"], True),
        (["checkpoint-500", "checkpoint-1000"], True),
        (["layer_1.pt", "layer_2.pt"], False),
        (["h.0.npy", "h.1.npy"], False),
        (["expert0.pt", "expert1.pt"], False),
        (["stage1.pt", "stage2.pt"], False),
        (["rank0.pt", "rank1.pt"], False),
        (["model-1-of-2.pt", "model-2-of-2.pt"], False),
        (["a.pt", "b.pt"], False),
        (["a1.pt", "b2.pt"], False),
    ],
)
def test_names_that_differ_in_the_step_only_are_a_run(names: list[str], are_a_run: bool) -> None:
    units = arranged(names)
    assert bool(runs_among(units)) == are_a_run
    if len(units) > 1 and not are_a_run and not names[0].startswith("a"):
        assert are_modules(units)


def test_the_work_is_that_of_the_names_and_not_of_the_numbers_in_them() -> None:
    names = [f"rank{10**17 + number}.pt" for number in range(3000)]
    (unit,) = arranged(itertools.chain(names, ["rank0.pt"]))
    with pytest.raises(MissingShardError, match=r"rank1\.pt"):
        refuse_faults(unit, "here")


@pytest.mark.parametrize("folder", ["rank3", "gpu1/mp_rank_02", "host-00001-of-00004", "layer_7"])
def test_the_directory_that_all_paths_are_in_says_nothing(folder: str, tmp_path: Path) -> None:
    place = tmp_path / folder
    place.mkdir(parents=True)
    for rank in range(2):
        save_file({"w": np.float32([3, 4])}, place / f"rank{rank}.safetensors")
    for source in (place, place / "rank*.safetensors", sorted(place.iterdir())):
        given = source if isinstance(source, list) else str(source)
        assert gradtool.measure(given).total.norm == 5.0
    (place / "rank0.safetensors").rename(place / "rank2.safetensors")
    with pytest.raises(gradtool.MissingShardError, match=r"'rank0\.safetensors' is missing"):
        gradtool.measure(place)
    with pytest.raises(gradtool.MissingShardError, match=r"rank0\.safetensors' is missing"):
        gradtool.measure(str(place / "rank*"))
