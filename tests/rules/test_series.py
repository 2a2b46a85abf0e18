"""Streaks are counted in each series of dumps: paths that differ in the step only."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import gradtool
from gradtool.core.file_names import series_of
from gradtool.core.judging.verdict import CheckOutcome
from gradtool.torch import dump_gradients

BAD, GOOD = math.nan, 1.0


def written(at: Path, values: dict[str, float]) -> list[Path]:
    """A dump of one element under each name."""
    for name, value in values.items():
        path = at / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"w": np.array([value])}, path)
    return [at / f"{name}.safetensors" for name in values]


def judged(*paths: Path, most: int = 1) -> CheckOutcome:
    return gradtool.check(*paths, thresholds={"GT103.max_consecutive": most})


def streaks_of(outcome: CheckOutcome) -> list[float | None]:
    assert {one.code for one in outcome.findings} <= {"GT103"}
    assert outcome.exit_code == (1 if outcome.findings else 0)
    return [one.value for one in outcome.findings]


@pytest.mark.parametrize("as_directory", [True, False])
@pytest.mark.parametrize("other", ["model", "zz", "aa", "ema_grads"])
def test_finite_files_of_another_name_end_no_streak(
    tmp_path: Path, other: str, as_directory: bool
) -> None:
    grads = {"grads_1": BAD, "grads_2": BAD, "grads_3": GOOD}
    paths = written(tmp_path, grads | {f"{other}_{step}": GOOD for step in (1, 2, 3)})
    outcome = judged(tmp_path) if as_directory else judged(*paths)
    assert streaks_of(outcome) == [2]
    (one,) = outcome.findings
    assert f"{tmp_path / 'grads_*.safetensors'}" in one.message
    assert "grads_1.safetensors to" in one.message
    assert "grads_2.safetensors;" in one.message


@pytest.mark.parametrize("run", ["run{}/step_", "run{}_step_", "run{}/grads_", "{}/step_1/at_"])
@pytest.mark.parametrize("runs", ["AB", "12"])
def test_two_runs_side_by_side_are_no_streak(tmp_path: Path, run: str, runs: str) -> None:
    first, second = map(run.format, runs)
    steps = {f"{first}1": GOOD, f"{first}2": BAD, f"{second}1": BAD, f"{second}2": GOOD}
    paths = written(tmp_path, steps)
    assert streaks_of(judged(*paths)) == []
    assert streaks_of(judged(tmp_path)) == []


def test_a_path_may_be_spelt_in_several_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, {"run/step1": BAD, "run/step2": BAD, "run/step3": BAD, "run/last": GOOD})
    names = ["run/step1", "./run/step2", f"{tmp_path}/run/step3", "run/last"]
    assert streaks_of(judged(*(Path(f"{name}.safetensors") for name in names), most=2)) == [3]


def test_each_run_has_its_own_finding_which_names_it(tmp_path: Path) -> None:
    paths = written(
        tmp_path,
        {"a/step1": BAD, "a/step2": BAD, "a/step3": GOOD, "b/step1": GOOD}
        | {"b/step2": BAD, "b/step3": BAD, "b/step4": BAD, "c/step1": BAD},
    )
    outcome = judged(*paths)
    assert streaks_of(outcome) == [2, 3]
    for folder, one in zip("ab", outcome.findings, strict=True):
        assert str(tmp_path / folder / "step*.safetensors") in one.message
    excused = [one.path for one in outcome.verdicts if not one.failed and one.has_nonfinite]
    assert excused == [str(tmp_path / "c/step1.safetensors")]


@pytest.mark.parametrize("copy", ["best", "latest", "checkpoint_last", "zzz", "Last-v1"])
@pytest.mark.parametrize("notes_step", [True, False])
def test_a_copy_of_a_step_neither_lengthens_nor_ends_a_streak(
    tmp_path: Path, copy: str, notes_step: bool
) -> None:
    steps = written(tmp_path, {"step1": BAD, "step2": GOOD, "step3": BAD, "step4": BAD})
    for value, step in ((BAD, 3), (GOOD, 2), (BAD, 4)):
        (beside,) = written(tmp_path, {copy: value})
        if notes_step:
            torch = pytest.importorskip("torch")
            parameter = torch.nn.Parameter(torch.ones(1))
            parameter.grad = torch.full((1,), value)
            beside.unlink()
            dump_gradients([("w", parameter)], beside, step=step)
        for at in ([tmp_path], [*steps, beside], [beside, *steps]):
            assert streaks_of(judged(*at)) == [2]
            assert streaks_of(judged(*at, most=2)) == []


@settings(max_examples=60)
@given(
    runs=st.dictionaries(
        st.sampled_from(["grads_", "model_", "a/step", "b/step", "x/epoch1/step", "seed1/step"]),
        st.lists(st.sampled_from([BAD, GOOD]), min_size=1, max_size=5),
        min_size=1,
        max_size=4,
    ),
    most=st.integers(1, 3),
    data=st.data(),
)
def test_what_lies_beside_a_run_changes_no_verdict_on_it(
    runs: dict[str, list[float]],
    most: int,
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    at = tmp_path_factory.mktemp("runs")
    paths = {
        run: written(at, {f"{run}{step}": value for step, value in enumerate(values, 1)})
        for run, values in runs.items()
    }
    alone = [judged(*each, most=most) for each in paths.values()]
    everything = data.draw(st.permutations([path for each in paths.values() for path in each]))
    together = judged(*everything, most=most)

    def facts(outcomes: list[CheckOutcome]) -> object:
        verdicts = {v.path: (v.findings, v.exit_code) for one in outcomes for v in one.verdicts}
        messages = [f.message.partition(" are ")[2] for one in outcomes for f in one.findings]
        return verdicts, sorted(messages)

    assert facts([together]) == facts(alone)


def test_copies_that_note_steps_are_no_run_beside_one(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.ones(1))
    names = {"step1": 1, "step2": 2, "step3": 3, "step4": 4, "best": 2, "latest": 4}
    for name, step in names.items():
        parameter.grad = torch.full((1,), BAD if step % 2 == 0 else GOOD)
        dump_gradients([("w", parameter)], tmp_path / f"{name}.safetensors", step=step)
    assert streaks_of(judged(tmp_path)) == []


@pytest.mark.parametrize("shape", [["."], ["grads_step_1.npz", "grads_step_2.npz", "loss.npz"]])
def test_losses_beside_gradients_are_no_dumps(tmp_path: Path, shape: list[str]) -> None:
    for step in (1, 2):
        np.savez(tmp_path / f"grads_step_{step}.npz", w=np.ones(3))
        np.savez(tmp_path / f"loss_step_{step}.npz", loss=np.float64(step))
    np.savez(tmp_path / "loss.npz", loss=np.float64(2))
    for sources in ([tmp_path / one for one in shape], [tmp_path / "*.npz"]):
        outcome = gradtool.check(*sources)
        assert outcome, outcome
        assert [Path(one.path).name for one in outcome.verdicts] == [
            "grads_step_1.npz",
            "grads_step_2.npz",
        ]
        (note,) = outcome.notes
        assert "no gradients, weights or moments" in note
        assert "loss.npz" in note
    alone = gradtool.check(tmp_path / "loss.npz", tmp_path / "loss_step_1.npz")
    assert (alone.exit_code, len(alone.verdicts)) == (3, 2)


def test_a_step_without_gradients_fails_though_it_holds_a_loss(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        held = {} if step == 2 else {"grads": {"w": torch.ones(3)}}
        torch.save({"loss": torch.ones(1), **held}, tmp_path / f"loss_step_{step}.pt")
    outcome = gradtool.check(tmp_path / "loss_*.pt")
    assert outcome.exit_code == 3
    assert [one.exit_code for one in outcome.verdicts] == [0, 3, 0]


def test_steps_of_one_run_that_only_the_dumps_note_are_a_series(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.ones(1))
    for name, step, value in (("z", 1, BAD), ("b", 2, BAD), ("a", 3, GOOD), ("c", 4, BAD)):
        parameter.grad = torch.full((1,), value)
        dump_gradients([("w", parameter)], tmp_path / f"{name}.safetensors", step=step)
    outcome = judged(tmp_path)
    assert streaks_of(outcome) == [2]
    assert "from step 1 " in outcome.findings[0].message
    assert "to step 2 " in outcome.findings[0].message


@pytest.mark.parametrize(
    ("path", "other", "alike"),
    [
        ("grads_1.pt", "grads_22.pt", True),
        ("grads_1.pt", "model_1.pt", False),
        ("a/step1.pt", "b/step1.pt", False),
        ("epoch1/step1.pt", "epoch2/step9.pt", True),
        ("epoch=1-step=10.ckpt", "epoch=2-step=20.ckpt", True),
        ("run1/step1.pt", "run2/step1.pt", False),
        ("lr1e-3/seed0/step1.pt", "lr1e-4/seed0/step1.pt", False),
        ("lightning_logs/version_0/step=1.ckpt", "lightning_logs/version_1/step=1.ckpt", False),
        ("run1_step2.pt", "run2_step1.pt", False),
        ("run1-grads_2.pt", "run1-grads_3.pt", True),
        ("step1-loss0.53.pt", "step2-loss0.4.pt", True),
        ("step1/rank0.pt", "step2/rank1.pt", True),
        ("rank0/grads_1.pt", "rank1/grads_1.pt", True),
        ("step1-00001-of-00002.pt", "step1-00002-of-00002.pt", True),
        ("step1/grads.pt", "step2/grads.pt", True),
        ("500/grads.pt", "1000/grads.pt", True),
        ("exp2/grads_0001.pt", "exp2/grads_0002.pt", True),
        ("exp2/grads_0001.pt", "exp3/grads_0001.pt", False),
        ("layer1/step1.pt", "layer2/step1.pt", False),
        ("step1.pt", "step1.safetensors", False),
        ("best.pt", "best_1.pt", False),
    ],
)
def test_paths_of_one_series_differ_in_numbers_of_steps_and_parts(
    path: str, other: str, alike: bool
) -> None:
    assert (series_of(path) == series_of(other)) == alike
