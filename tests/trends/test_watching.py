"""Which steps of a run are finished while it is written; the clock is the test's own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gradtool.api.follow.following import following
from trends.runs import write_run, write_step
from trends.watched import Clock, Followed

OK = {"a": [3.0, 4.0], "b": [1.0, -2.0]}
SETTLE_S = 5.0


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[Followed]:
    clock = Clock()
    with following(str(tmp_path / "run"), settle_s=SETTLE_S) as follower:
        follower.watch.clock = clock
        yield Followed(follower, clock)


def test_a_file_is_shown_once_it_did_not_change_between_two_looks(
    tmp_path: Path, followed: Followed
) -> None:
    assert followed.look() == []  # there is no such directory yet
    run = write_run(tmp_path / "run", {2: OK, 10: OK})
    assert followed.look() == []
    assert followed.look() == ["step 2", "step 10"]
    write_step(run / "step_11.safetensors", OK)
    assert [followed.look() for _ in range(3)] == [[], ["step 11"], []]


def test_a_file_that_is_not_whole_waits_for_its_rest(tmp_path: Path, followed: Followed) -> None:
    whole = write_step(tmp_path / "whole.safetensors", {"w": list(map(float, range(1000)))})
    run = write_run(tmp_path / "run", {1: OK})
    data, part = whole.read_bytes(), run / "step_2.safetensors"
    for end in (0, 5, 900, len(data) - 1):
        part.write_bytes(data[:end])
        assert "step 2" not in [*followed.look(), *followed.look(), *followed.look()]
    part.write_bytes(data)
    assert [followed.look(), followed.look()] == [[], ["step 2"]]


def test_a_file_that_stays_cut_is_shown_as_what_it_is(tmp_path: Path, followed: Followed) -> None:
    run = write_run(tmp_path / "run", {1: OK})
    cut = run / "step_2.safetensors"
    cut.write_bytes((run / "step_1.safetensors").read_bytes()[:-3])
    assert [followed.look() for _ in range(3)] == [[], ["step 1"], []]
    assert followed.look(SETTLE_S) == ["step 2"]


def test_what_is_renamed_into_place_was_not_seen_under_its_first_name(
    tmp_path: Path, followed: Followed
) -> None:
    run = write_run(tmp_path / "run", {1: OK})
    followed.look()
    followed.look()
    write_step(run / ".step_2.safetensors.tmp", OK)
    assert [followed.look(), followed.look(SETTLE_S)] == [[], []]
    (run / ".step_2.safetensors.tmp").rename(run / "step_2.safetensors")
    assert [followed.look(), followed.look()] == [[], ["step 2"]]


def test_ranks_wait_until_all_are_there_and_settled(tmp_path: Path, followed: Followed) -> None:
    run = tmp_path / "run"

    def write(step: int, rank: int) -> None:
        write_step(run / f"step{step}_rank{rank}.safetensors", OK)

    write(1, 0)
    write(1, 1)
    assert [followed.look(), followed.look(), followed.look(SETTLE_S)] == [[], [], ["step 1"]]
    write(2, 0)
    for _ in range(3):
        assert followed.look(SETTLE_S) == []  # the step before has two
    write(2, 1)
    assert followed.look() == []
    assert followed.look(SETTLE_S) == ["step 2"]


def test_a_rank_that_never_comes_is_told_once_a_later_step_is_there(
    tmp_path: Path, followed: Followed
) -> None:
    run = tmp_path / "run"
    for step, rank in ((1, 0), (1, 1), (2, 0)):
        write_step(run / f"step{step}_rank{rank}.safetensors", OK)
    followed.look()
    assert followed.look(SETTLE_S) == ["step 1"]
    assert followed.look(SETTLE_S) == []
    write_step(run / "step3_rank0.safetensors", OK)
    clock = followed.clock
    clock.now += SETTLE_S
    (news,) = followed.follower.look()
    assert news.step is not None and news.step.number == 2
    assert news.step.verdict.exit_code == 3 and "missing" in news.findings[0].message


def test_a_folder_is_finished_when_it_has_as_many_files_as_the_one_before(
    tmp_path: Path, followed: Followed
) -> None:
    run = tmp_path / "run"
    for name in ("grads.safetensors", "extra.safetensors"):
        tensor = name[0]
        write_step(run / "checkpoint-1" / name, {tensor: [1.0]})
    assert [followed.look(), followed.look(SETTLE_S)] == [[], ["step 1"]]
    write_step(run / "checkpoint-2" / "grads.safetensors", {"m": [2.0]})
    assert [followed.look(), followed.look(SETTLE_S)] == [[], []]
    write_step(run / "checkpoint-2" / "extra.safetensors", {"e": [2.0]})
    assert [followed.look(), followed.look(SETTLE_S)] == [[], ["step 2"]]


def test_a_set_with_an_index_need_not_settle(tmp_path: Path, followed: Followed) -> None:
    folder = tmp_path / "run" / "step_1"
    for number in (1, 2):
        write_step(folder / f"grads-{number:05}-of-00002.safetensors", {f"w{number}": [1.0]})
    assert [followed.look(), followed.look(), followed.look()] == [[], [], []]
    names = {f"w{number}": f"grads-{number:05}-of-00002.safetensors" for number in (1, 2)}
    index = folder / "grads.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert [followed.look(), followed.look()] == [[], ["step 1"]]


def test_an_unfinished_folder_of_the_trainer_is_none(tmp_path: Path, followed: Followed) -> None:
    run = tmp_path / "run"
    write_step(run / "tmp-checkpoint-1" / "grads.safetensors", OK)
    assert [followed.look(), followed.look(SETTLE_S)] == [[], []]
    (run / "tmp-checkpoint-1").rename(run / "checkpoint-1")
    assert [followed.look(), followed.look(SETTLE_S)] == [[], ["step 1"]]


def test_a_later_change_is_told_if_figures_are_others(tmp_path: Path, followed: Followed) -> None:
    run = write_run(tmp_path / "run", {1: OK, 2: OK})
    followed.look()
    assert followed.look() == ["step 1", "step 2"]
    write_step(run / "step_1.safetensors", {"a": [1.0]})
    assert [followed.look(), followed.look()] == [[], ["step 1*"]]
    os.utime(run / "step_2.safetensors")
    assert [followed.look(), followed.look(), followed.look()] == [[], [], []]


def test_files_that_vanish_are_survived(tmp_path: Path, followed: Followed) -> None:
    run = write_run(tmp_path / "run", {1: OK, 2: OK, 3: OK})
    followed.look()
    (run / "step_2.safetensors").unlink()
    assert followed.look() == ["step 1", "step 3"]
    shutil.rmtree(run)
    assert [followed.look(), followed.look(SETTLE_S)] == [[], []]
    write_run(run, {4: OK})
    assert [followed.look(), followed.look()] == [[], ["step 4"]]


def test_a_file_that_changes_while_it_is_read_is_not_shown(
    tmp_path: Path, followed: Followed
) -> None:
    run = write_run(tmp_path / "run", {1: OK, 2: OK})
    followed.look()
    followed.clock.now += 1.0
    for one, _ in followed.follower.watch.finished():
        if one.entry.step == 1:  # between the look at it and its reading
            write_step(run / "step_1.safetensors", {"a": [9.0, 9.0, 9.0]})
            assert followed.follower._read(one, is_final=False) is None
    assert followed.look() == ["step 2"]
    assert followed.look() == ["step 1"]


def test_globs_and_files_are_followed_too(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {1: OK})
    clock = Clock()
    with following(f"{run}/step_*.safetensors", settle_s=SETTLE_S) as follower:
        follower.watch.clock = clock
        both = Followed(follower, clock)
        assert [both.look(), both.look()] == [[], ["step 1"]]
        write_run(run, {2: OK})
        write_step(run / "other.safetensors", OK)
        assert [both.look(), both.look()] == [[], ["step 2"]]


def test_steps_are_judged_together(tmp_path: Path) -> None:
    broken = {"a": [float("nan"), 1.0], "b": [1.0, 2.0]}
    run = write_run(tmp_path / "run", {1: OK, 2: broken})
    clock = Clock()
    options = {"GT103.max_consecutive": 1}
    with following(str(run), settle_s=SETTLE_S, thresholds=options) as follower:
        follower.watch.clock = clock
        list(follower.look())
        clock.now += 1.0
        assert [news.fails for news in follower.look()] == [False, False]
        write_run(run, {3: broken})
        list(follower.look())
        clock.now += 1.0
        third, together = follower.look()
        assert third.step is not None and third.fails
        assert together.step is None and together.findings[0].code == "GT103"
