"""`gradtool.trend`: the steps of runs in their order, and what is concluded from them."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gradtool
from gradtool.core.trends.counting import missing
from trends.runs import measured_files, plain, true_norm, write_run, write_step

OK = {"a": [3.0, 4.0], "b": [1.0, -2.0]}
NAN = {"a": [3.0, 4.0], "b": [math.nan, 1.0]}


def codes(trend: gradtool.Trend) -> list[str]:
    return [one.code for one in trend.conclusions]


def test_steps_come_in_their_order_with_their_norms(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    steps = {n: {"w": rng.standard_normal(50), "v": rng.standard_normal(9)} for n in (100, 9, 20)}
    trend = gradtool.trend(write_run(tmp_path / "run", steps))
    assert [step.number for step in trend.steps] == [9, 20, 100]
    for step in trend.steps:
        assert step.total is not None and step.number is not None
        assert math.isclose(step.total.norm, true_norm(steps[step.number]), rel_tol=1e-12)
    assert trend and trend.exit_code == 0


@pytest.mark.parametrize("seed", range(3))
def test_however_they_are_named_the_steps_are_the_same(tmp_path: Path, seed: int) -> None:
    run = write_run(tmp_path / "run", {n: {"w": [float(n), 1.0]} for n in (1, 2, 3, 10)})
    files = sorted(map(str, run.iterdir()))
    random.Random(seed).shuffle(files)
    as_directory = gradtool.trend(run).to_rows()
    for sources in (files, [f"{run}/step_*.safetensors"], [files[0], f"{run}/step_*[!{seed}].*"]):
        rows = gradtool.trend(*sources).to_rows()
        assert {row["path"] for row in rows} <= {row["path"] for row in as_directory}
        assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    assert [{**row, "run": ""} for row in gradtool.trend(*files).to_rows()] == [
        {**row, "run": ""} for row in as_directory
    ]


def test_a_list_of_paths_is_what_the_paths_are(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {n: {"w": [float(n), 1.0]} for n in (1, 2, 3, 10)})
    files = sorted(run.iterdir())
    for last in (None, 2):
        rows = gradtool.trend(files, last=last).to_rows()
        assert [row["norm"] for row in rows] == [
            row["norm"] for row in gradtool.trend(*files, last=last).to_rows()
        ]


def test_each_step_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", dict.fromkeys((1, 2, 3), OK))
    store = tmp_path / "rows.sqlite"
    gradtool.trend(run, cache=store)  # too young to be kept
    opened = measured_files(monkeypatch)
    gradtool.trend(run)
    once = len(opened)
    gradtool.trend(run, cache=store)
    assert len(opened) == 2 * once


def test_ranks_of_a_step_are_one_step(tmp_path: Path) -> None:
    for step in (1, 2):
        for rank in (0, 1):
            write_step(tmp_path / f"step{step}_rank{rank}.safetensors", {"w": [float(step), 2.0]})
    trend = gradtool.trend(tmp_path)
    assert [(step.number, step.total and step.total.tensors) for step in trend.steps] == [
        (1, 1),
        (2, 1),
    ]


def test_each_directory_of_steps_is_a_run(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", {1: OK, 2: NAN})
    two = write_run(tmp_path / "two", {1: OK, 2: OK, 3: OK})
    trend = gradtool.trend(one, two)
    assert [(run.name, len(run.steps)) for run in trend.runs] == [(str(one), 2), (str(two), 3)]
    assert {row["run"] for row in trend.to_rows()} == {str(one), str(two)}
    assert trend.exit_code == 1


def test_the_first_bad_step_and_tensor_are_said_in_the_models_order(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    steps = [(1.0, 1.0, 1.0), (1.0, math.inf, math.nan), (math.nan, math.inf, math.nan)]
    for number, values in enumerate(steps, 1):
        tensors = {name: torch.tensor([x]) for name, x in zip("zma", values, strict=True)}
        torch.save(tensors, run / f"step_{number}.pt")
    first = gradtool.trend(run).conclusions[0]
    assert (first.code, first.step, first.tensor) == ("first-bad", 2, "m")
    assert "2 of 3 tensors are not finite, 'm' the first in the model's order" in first.text
    assert "1 later step failed too" in first.text


def test_where_all_broke_at_once_the_loss_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {1: OK, 2: {"a": [math.nan, 0.0], "b": [math.nan, 1.0]}})
    text = gradtool.trend(run).conclusions[0].text
    assert "all 2 tensors are not finite at once: look at the loss" in text


def test_a_step_that_cannot_be_read_is_a_bad_step(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {1: OK, 2: OK, 3: OK})
    (run / "step_2.safetensors").write_bytes(b"\1" * 40)
    trend = gradtool.trend(run)
    assert [step.total is None for step in trend.steps] == [False, True, False]
    assert trend.exit_code == 3
    first = trend.conclusions[0]
    assert (first.code, first.step) == ("first-bad", 2)
    assert "not judged" in first.text


def test_verdicts_are_those_of_check(tmp_path: Path) -> None:
    steps = {n: NAN if n in (3, 4, 7) else OK for n in range(1, 9)}
    run = write_run(tmp_path / "run", steps)
    for most in (0, 1, 2, 5):
        thresholds = {"GT103.max_consecutive": most, "GT203.max_norm": 5}
        checked = gradtool.check(run, thresholds=thresholds)
        trend = gradtool.trend(run, thresholds=thresholds)
        assert trend.exit_code == checked.exit_code
        for step, verdict in zip(trend.steps, checked.verdicts, strict=True):
            assert (step.path, step.verdict.findings) == (verdict.path, verdict.findings)
        assert trend.findings == checked.findings


def test_since_when_a_layer_is_dead_is_said(tmp_path: Path) -> None:
    def step(*dead: int) -> dict[str, list[float]]:
        return {f"layers.{n}.w": [0.0, 0.0] if n in dead else [1.0, n + 1.0] for n in range(5)}

    steps = {1: step(), 2: step(3), 3: step(), 4: step(1), 5: step(1, 3), 6: step(1, 3)}
    trend = gradtool.trend(write_run(tmp_path / "run", steps))
    dead = [(one.step, one.tensor) for one in trend.conclusions if one.code == "dead"]
    assert dead == [(4, "layers.1.w"), (5, "layers.3.w")]


def test_how_the_largest_share_moved_is_said(tmp_path: Path) -> None:
    steps = {1: {"a": [2.0], "b": [1.0]}, 2: {"a": [0.0], "b": [1.0]}, 3: {"a": [1.0], "b": [2.0]}}
    trend = gradtool.trend(write_run(tmp_path / "run", steps))
    (moved,) = (one for one in trend.conclusions if one.code == "largest-share")
    assert (moved.step, moved.tensor) == (2, "b")
    for words in ("80 % 'a' in step 1", "100 % 'b' in step 2", "80 % 'b' in step 3"):
        assert words in moved.text


def test_steps_of_other_models_are_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {1: OK, 2: OK, 3: {"a": [1.0]}})
    (other,) = (one for one in gradtool.trend(run).conclusions if one.code == "other-tensors")
    assert other.step == 3 and "1 after 2" in other.text


def test_missing_and_doubled_steps_are_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", dict.fromkeys((0, 10, 20, 30, 40, 70, 73, 80), OK))
    write_step(run / "again_step_20.safetensors", OK)
    found = {one.code: one for one in gradtool.trend(f"{run}/*").conclusions}
    assert found["missing-steps"].text == "steps 50, 60 are missing: there is one for every 10"
    assert found["doubled-steps"].step == 20


@given(
    every=st.integers(1, 10**6),
    phase=st.integers(0, 10**9),
    kept=st.sets(st.integers(0, 30), min_size=1),
)
def test_gaps_are_exactly_what_is_not_there(every: int, phase: int, kept: set[int]) -> None:
    """Between the first and the last of a run that has most of its steps."""
    steps = {*kept, *range(31, 100)}
    gaps, found = missing([phase + n * every for n in steps])
    lost = {(gap.first - phase) // every + at for gap in gaps for at in range(gap.steps)}
    assert found == every
    assert lost == set(range(min(steps), 100)) - steps


def test_a_huge_gap_costs_nothing() -> None:
    gaps, every = missing([1, 2, 3, 4, 5, 10**18])
    assert (every, gaps[0].first, gaps[0].steps) == (1, 6, 10**18 - 6)


def test_weights_alone_are_a_question(tmp_path: Path) -> None:
    state = {"model.w": [1.0], "optimizer.exp_avg.w": [2.0]}
    run = write_run(tmp_path / "run", {1: state, 2: state})
    with pytest.raises(gradtool.UsageError, match="section"):
        gradtool.trend(run)
    steps = gradtool.trend(run, section="model").steps
    assert [step.total and step.total.norm for step in steps] == [1.0, 1.0]


def test_the_newest_steps_alone_are_followed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {n: {"w": [float(n)]} for n in range(1, 8)})
    whole = gradtool.trend(run)
    for sources in ([run], [f"{run}/*"], sorted(run.iterdir())):
        newest = gradtool.trend(*sources, last=3)
        assert [step.number for step in newest.steps] == [5, 6, 7]
        assert newest.to_rows() == [
            {**row, "run": newest.runs[0].name} for row in whole.to_rows()[-3:]
        ]


def test_tensors_and_groups_are_followed(tmp_path: Path) -> None:
    step = {"layers.0.w": [3.0], "layers.1.w": [4.0, 0.0], "head": [1.0]}
    steps = {n: {name: np.multiply(n, values) for name, values in step.items()} for n in (1, 2)}
    trend = gradtool.trend(write_run(tmp_path / "run", steps), tensor="*.1.*", group_by="layers.#")
    for n, row in enumerate(trend.steps, 1):
        (part,) = row.tensors
        assert (part.name, part.stats.norm, part.stats.zeros) == ("layers.1.w", 4.0 * n, 1)
        assert part.share is not None and math.isclose(part.share, 16 / 26)
        groups = {group.name: group.stats.norm for group in row.groups}
        assert groups == {"(other)": float(n), "layers.#": 5.0 * n}


def test_what_is_followed_must_be_there(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {1: OK, 2: OK})
    with pytest.raises(gradtool.UsageError, match="nearest"):
        gradtool.trend(run, tensor="nowhere.*")


def test_what_clipping_would_do_is_torchs(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {1: {"w": [3.0, 4.0]}, 2: {"w": [0.3, 0.4]}})
    rows = gradtool.trend(run, max_norm=1.0).to_rows()
    assert [row["clip_coef"] for row in rows] == [1.0 / (5.0 + 1e-6), 1.0]


@pytest.mark.parametrize(
    "options",
    [
        {"last": 0},
        {"last": True},
        {"max_norm": -1.0},
        {"max_norm": math.nan},
        {"eps": -1.0},
        {"group_by": "0"},
        {"max_norm": 1.0, "norm_type": 0},
        {"thresholds": {"GT203.nonsense": 1}},
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_read(options: dict[str, object]) -> None:
    with pytest.raises(gradtool.UsageError):
        gradtool.trend("nowhere", **options)  # type: ignore[arg-type]


def test_arrays_are_no_run() -> None:
    with pytest.raises(gradtool.UsageError, match="on disk"):
        gradtool.trend({"w": np.ones(2)})  # type: ignore[arg-type]


def test_a_trend_shows_itself(tmp_path: Path) -> None:
    trend = gradtool.trend(write_run(tmp_path / "run", {1: OK, 2: NAN}))
    assert "2 steps, 1 failed" in repr(trend)
    assert trend.to_dict()["schema"] == "gradtool.trend/1"
    assert [row["verdict"] for row in trend.to_rows()] == ["pass", "fail"]
    assert plain(trend) == plain(gradtool.trend(tmp_path / "run"))


def test_dumps_that_no_directory_holds_are_called_by_the_first_of_them(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", {1: OK, 2: OK})
    others = [write_step(tmp_path / f"step_{number}.safetensors", OK) for number in (7, 8)]
    trend = gradtool.trend(one, *others)
    assert [run.name for run in trend.runs] == [str(one), f"{others[0]} and 1 more"]
    trend = gradtool.trend(one, others[0])
    assert [run.name for run in trend.runs] == [str(one), str(others[0])]


def test_where_ranks_part_the_step_is_shown_and_so_are_the_others(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        for rank in (0, 1):
            value = 9.0 if (step, rank) == (2, 1) else float(step)
            write_step(tmp_path / f"step{step}_rank{rank}.safetensors", {"w": [value, 0.0]})
    trend = gradtool.trend(tmp_path)
    assert [step.total and step.total.norm for step in trend.steps] == [1.0, None, 3.0]
    (finding,) = trend.steps[1].verdict.findings
    assert finding.code == "GT001"
    assert "copy of rank 1 differ" in finding.message
    assert "'replica'" in finding.message
    with pytest.raises(gradtool.RanksQuestionError):
        gradtool.trend(tmp_path / "step2_rank*.safetensors")
