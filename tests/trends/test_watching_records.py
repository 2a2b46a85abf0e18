"""A recorder's store that is followed look by look: what each look tells, reads and survives."""

from __future__ import annotations

import math
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradtool
from gradtool.api.follow.following import following
from gradtool.core.judging.rule import Severity
from gradtool.storage.rows.record import RecordReader
from gradtool.torch import Recorder
from trends.runs import write_run
from trends.watched import Clock, Followed

SETTLE_S = 5.0


class Training:
    """One start of a training, whose gradients are one number."""

    def __init__(self, store: Path) -> None:
        self._weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.recorder = Recorder([("w", self._weight)], store, dump_on="")

    def __call__(self, *steps: int, norm: float = 1.0) -> None:
        """Record steps, and commit them."""
        self._weight.grad = torch.tensor([norm], dtype=torch.float64)
        for step in steps:
            self.recorder.before_clipping(step=step)
        self.recorder.close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.rows"


@pytest.fixture
def followed(store: Path) -> Iterator[Followed]:
    with following(str(store), settle_s=SETTLE_S) as follower:
        clock = follower.watch.clock = Clock()
        yield Followed(follower, clock)


def steps(*numbers: int) -> list[str]:
    return [f"step {number}" for number in numbers]


def test_each_row_is_told_once_in_the_order_of_steps(store: Path, followed: Followed) -> None:
    assert followed.look() == []  # there is no store yet
    train = Training(store)
    assert (followed.look(), followed.follower.has_steps) == ([], False)
    train(2, 10, 1)
    assert [followed.look(), followed.look()] == [steps(1, 2, 10), []]
    train(11)
    train(12)
    assert [followed.look(), followed.look()] == [steps(11, 12), []]
    assert followed.follower.has_steps


def test_a_step_that_is_recorded_again_is_told_again(store: Path, followed: Followed) -> None:
    first = Training(store)
    first(*range(1, 8))
    assert followed.look() == steps(*range(1, 8))
    resumed = Training(store)
    resumed(4)
    resumed(5, norm=2.0)
    assert [followed.look(), followed.look()] == [[*steps(4), "step 5*"], []]
    resumed(5, norm=3.0)  # a second call in that step
    assert [followed.look(), followed.look()] == [["step 5*"], []]
    resumed(2, 6, norm=4.0)  # back again in the same process
    assert followed.look() == ["step 2*", "step 6*"]


def test_rows_of_a_resumed_run_are_noted_at_the_start(store: Path, followed: Followed) -> None:
    Training(store)(1, 2, 3)
    Training(store)(2)
    assert followed.look() == steps(1, 2, 3)
    again, stale = followed.follower.notes
    assert again.endswith("step 2 was recorded more than once, and the last time counts")
    assert "step 3 is of an earlier start" in stale


def test_what_is_idle_is_not_opened_and_what_is_known_is_not_read(
    store: Path, followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    read: list[int] = []
    connect, row = sqlite3.connect, RecordReader.row

    def connecting(*args: Any, **options: Any) -> sqlite3.Connection:
        opened.append(args)
        return connect(*args, **options)

    def reading(self: RecordReader, step: int) -> Any:
        read.append(step)
        return row(self, step)

    train = Training(store)
    train(*range(1, 500))
    assert len(followed.look()) == 499
    monkeypatch.setattr(RecordReader, "row", reading)
    train(500, 37)
    assert followed.look() == steps(37, 500)
    assert read == [37, 500]
    monkeypatch.setattr(sqlite3, "connect", connecting)
    assert [followed.look() for _ in range(20)] == [[]] * 20
    assert not opened


def test_a_store_that_is_away_for_a_while_is_told_no_second_time(
    store: Path, followed: Followed
) -> None:
    train = Training(store)
    train(1, 2, 3)
    assert followed.look() == steps(1, 2, 3)
    store.rename(away := store.with_suffix(".away"))
    assert [followed.look(), followed.look(SETTLE_S)] == [[], []]
    away.rename(store)
    assert followed.look() == []
    train(4)
    assert followed.look() == steps(4)
    copy = shutil.copy(store, away)
    train(5, 6)
    os.replace(copy, store)  # an older state of it
    assert followed.look() == []
    train(5)
    assert followed.look() == steps(5)


@pytest.mark.parametrize("is_seen", [True, False])
def test_another_store_in_its_place_is_a_run_of_its_own(
    store: Path, followed: Followed, *, is_seen: bool
) -> None:
    Training(store)(1, 2, 3, 4)
    assert followed.look() == steps(1, 2, 3, 4)
    store.unlink()
    if is_seen:
        assert followed.look() == []
    train = Training(store)
    train(1, 2, norm=2.0)
    assert followed.look() == steps(1, 2)
    train(3, 4, 5, norm=2.0)
    assert followed.look() == steps(3, 4, 5)


def test_a_clock_that_runs_backwards_hides_no_row(
    store: Path, followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, told = Training(store), []
    for step, now in enumerate([10**18, 5, 10**17, 10**18 + 1, 3], 1):
        monkeypatch.setattr("gradtool.storage.rows.record.time.time_ns", lambda now=now: now)
        train(step)
        told += followed.look()
    assert told == steps(1, 2, 3, 4, 5)


def test_a_locked_store_is_looked_at_again(store: Path, followed: Followed) -> None:
    train = Training(store)
    train(1)
    assert followed.look() == steps(1)
    train(2)
    lock = sqlite3.connect(store, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    assert [followed.look(), followed.look()] == [[], []]
    lock.execute("ROLLBACK")
    assert followed.look() == steps(2)
    train(3)
    lock.execute("BEGIN EXCLUSIVE")
    assert [followed.look(), followed.look(), followed.look(SETTLE_S)] == [[], [], [str(store)]]
    assert [followed.look(), followed.look(SETTLE_S)] == [[], []]
    lock.execute("ROLLBACK")
    lock.close()
    assert followed.look() == steps(3)


def test_a_damaged_row_is_one_finding_after_those_before_it(
    store: Path, followed: Followed
) -> None:
    train = Training(store)
    train(1, 2, 3)
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE steps SET content = zeroblob(200) WHERE step = 2")
    connection.close()
    assert [followed.look(), followed.look()] == [steps(1), []]
    followed.clock.now += SETTLE_S
    (news,) = followed.follower.look()
    assert news.fails and news.step is not None and news.step.verdict.exit_code == 3
    assert (news.step.number, [one.code for one in news.findings]) == (2, ["GT001"])
    assert [followed.look(), followed.look(SETTLE_S)] == [[], []]
    train(2, norm=2.0)  # which mends it
    assert followed.look() == steps(2, 3)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE steps SET change = 'text' WHERE step = 2",
        "UPDATE steps SET change = -1",
        "UPDATE steps SET change = 9223372036854775807 WHERE step = 1",
        "UPDATE steps SET times = x'00' WHERE step = 2",
        "DELETE FROM catalogues",
        "DROP INDEX changes",
        "CREATE TRIGGER more AFTER INSERT ON steps BEGIN DELETE FROM steps; END",
    ],
)
def test_whatever_a_store_says_training_and_following_go_on(
    store: Path, followed: Followed, damage: str
) -> None:
    train = Training(store)
    train(1, 2, 3)
    with sqlite3.connect(store) as connection:
        connection.execute(damage)
    connection.close()
    told = [*followed.look(), *followed.look(SETTLE_S), *followed.look(SETTLE_S)]
    assert told.count(str(store)) <= 1
    train(4)
    followed.look()
    store.unlink()
    Training(store)(1)
    assert "step 1" in followed.look()


def norms_of_a_run(number: int, seed: int) -> list[float]:
    """Norms with noise, single ones that stand out, and a level that rises and stays."""
    random_of = random.Random(seed)
    norms = [math.exp(random_of.gauss(0.0, 0.1)) for _ in range(number)]
    for at in range(110, number, 97):
        norms[at] *= random_of.choice([2.3, 4.0, 30.0])
    for at in range(number * 3 // 5, number * 4 // 5):
        norms[at] *= 5.0
    norms[number // 4] = math.nan
    return norms


def spoken(findings: Any) -> list[tuple[str, Severity, str]]:
    return [(one.code, one.severity, one.message) for one in findings]


def test_what_stands_out_is_what_stands_out_in_the_finished_run(
    store: Path, followed: Followed
) -> None:
    train, told = Training(store), {}
    look: Callable[[], Any] = followed.follower.look
    for step, norm in enumerate(norms_of_a_run(1300, seed=0), 1):
        train(step, norm=norm)
        if step > 1220 or step % 300 == 0 or step in {400, 1000, 1001}:
            told.update({one.step.number: spoken(one.findings) for one in look()})
    (run,) = gradtool.trend(store).runs
    whole = {one.number: spoken(one.verdict.findings) for one in run.steps}
    # The first hundred are compared with steps after them, as far as there are any.
    assert {n: told[n] for n in told if n > 101} == {n: whole[n] for n in whole if n > 101}
    assert {code for found in told.values() for code, *_ in found} >= {"GT101", "GT210", "GT212"}


def test_streaks_are_those_of_the_finished_run(store: Path) -> None:
    options = {"GT103.max_consecutive": 2}
    with following(str(store), settle_s=SETTLE_S, thresholds=options) as follower:
        train, together = Training(store), []
        for step in range(1, 9):
            train(step, norm=math.nan if step > 4 else 1.0)
            together += [one for one in follower.look() if one.step is None]
    (finding,) = gradtool.trend(store, thresholds=options).findings
    assert spoken(together[-1].findings) == spoken([finding])


def test_stores_of_a_glob_are_runs_of_their_own_beside_dumps(tmp_path: Path) -> None:
    first, second = Training(tmp_path / "a.rows"), Training(tmp_path / "b.rows")
    write_run(tmp_path, {9: {"w": [1.0]}})
    with following(str(tmp_path / "*"), settle_s=SETTLE_S) as follower:
        clock = follower.watch.clock = Clock()
        followed = Followed(follower, clock)
        first(1, 2)
        second(1)
        assert [followed.look(), followed.look()] == [steps(1, 2, 1), steps(9)]
        second(2)
        (news,) = follower.look()
        (run,) = follower.trend_of(news).runs
        assert (run.name, follower.shows_paths) == (str(tmp_path / "b.rows"), True)
