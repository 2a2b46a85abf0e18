"""Steps in a row that are not finite: how many are fine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import gradtool
from gradtool.core.judging.verdict import CheckOutcome
from gradtool.torch import dump_gradients

GOOD, NAN, INF, BOTH, LOST, EMPTY = "good", "nan", "inf", "both", "lost", "empty"
ELEMENTS = {GOOD: [1.0], NAN: [math.nan], INF: [math.inf], BOTH: [math.nan, -math.inf]}
BAD = {NAN, INF, BOTH}
UNREADABLE = {LOST, EMPTY}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dump of each kind for each step and rank, its step in its path."""
    at = tmp_path_factory.mktemp("kinds")
    for kind in KINDS:
        for step in [*map(str, range(8)), "none"]:
            for rank in range(2):
                path = at / named(kind, step, rank)
                if kind == LOST:
                    path.write_bytes(b"\0" * 40)
                elif kind == EMPTY:
                    save_file({"count": np.ones(1, np.int64)}, path)
                else:
                    save_file({"w": np.array(ELEMENTS[kind])}, path)
    return at


KINDS = [GOOD, NAN, INF, BOTH, LOST, EMPTY]


def named(kind: str, step: str, rank: int) -> str:
    """A path that differs from those of the other dumps of its step in a part's number only."""
    number = 2 * KINDS.index(kind) + rank
    return f"part{number}" if step == "none" else f"step{step}-part{number}"


@dataclass(frozen=True)
class Dump:
    kind: str
    step: int | None
    rank: int

    def at(self, kinds: Path) -> Path:
        return kinds / named(self.kind, "none" if self.step is None else str(self.step), self.rank)


def judged(dumps: list[Dump], most: int, kinds: Path) -> CheckOutcome:
    paths = [dump.at(kinds) for dump in dumps]
    return gradtool.check(*paths, thresholds={"GT103.max_consecutive": most})


def bad_runs(dumps: list[Dump]) -> list[set[int | None]]:
    """Of dumps with steps: the steps of each streak."""
    steps = sorted({dump.step for dump in dumps if dump.kind not in UNREADABLE})
    bad = {dump.step for dump in dumps if dump.kind in BAD}
    return [set(run) for is_bad, run in groupby(steps, bad.__contains__) if is_bad]


dumps = st.builds(
    Dump,
    st.sampled_from([GOOD, NAN, INF, BOTH, NAN, INF, LOST, EMPTY]),
    st.integers(0, 7),
    st.integers(0, 1),
)
runs = st.lists(dumps, min_size=1, max_size=12, unique_by=lambda one: (one.step, one.rank))


@settings(max_examples=200)
@given(found=runs, most=st.integers(0, 4))
def test_streaks_up_to_so_many_steps_are_warnings_and_longer_ones_errors(
    found: list[Dump], most: int, kinds: Path
) -> None:
    outcome = judged(found, most, kinds)
    streaks = bad_runs(found)
    too_long = [run for run in streaks if len(run) > most] if most else []
    excused = set().union(*(run for run in streaks if len(run) <= most)) if most else set()
    by_path = {str(dump.at(kinds)): dump for dump in found}
    assert [one.step for one in outcome.verdicts] == sorted(dump.step for dump in found)
    for verdict in outcome.verdicts:
        dump = by_path[verdict.path]
        wanted = {NAN: ["GT101"], INF: ["GT102"], BOTH: ["GT101", "GT102"], GOOD: []}
        unreadable = {LOST: ["GT001"], EMPTY: ["GT002"]}
        assert [one.code for one in verdict.findings] == (wanted | unreadable)[dump.kind]
        severity = "warning" if dump.step in excused and dump.kind in BAD else "error"
        assert {one.severity for one in verdict.findings} <= {severity}
        grave = bool(verdict.findings) and severity == "error"
        assert verdict.failed == grave
        assert verdict.exit_code == (3 if dump.kind in UNREADABLE else int(grave))
    assert [(one.code, one.value, one.limit) for one in outcome.findings] == [
        ("GT103", len(run), most) for run in too_long
    ]
    for one, run in zip(outcome.findings, too_long, strict=True):
        assert f"from step {min(run)} " in one.message
        assert f"to step {max(run)} " in one.message
    assert outcome.exit_code == max(one.exit_code for one in outcome.verdicts)


@given(found=runs, most=st.integers(0, 3), data=st.data())
def test_the_order_of_arguments_does_not_matter_where_steps_are_known(
    found: list[Dump], most: int, data: st.DataObject, kinds: Path
) -> None:
    def facts(outcome: CheckOutcome) -> object:
        each = {one.path: (one.findings, one.failed, one.exit_code) for one in outcome.verdicts}
        together = [(one.code, one.severity, one.value) for one in outcome.findings]
        return each, together, outcome.exit_code

    again = data.draw(st.permutations(found))
    assert facts(judged(again, most, kinds)) == facts(judged(found, most, kinds))


@given(
    found=st.lists(st.sampled_from([GOOD, NAN, LOST]), min_size=1, max_size=8),
    most=st.integers(1, 3),
)
def test_without_steps_the_order_of_arguments_is_that_of_steps(
    found: list[str], most: int, kinds: Path
) -> None:
    outcome = judged([Dump(kind, None, 0) for kind in found], most, kinds)
    readable = [kind for kind in found if kind != LOST]
    streaks = [len(list(run)) for kind, run in groupby(readable) if kind == NAN]
    assert [one.value for one in outcome.findings] == [run for run in streaks if run > most]
    warned = sum(one.severity == "warning" for v in outcome.verdicts for one in v.findings)
    assert warned == sum(run for run in streaks if run <= most)


def test_dumps_of_one_step_count_once(kinds: Path) -> None:
    """One rank's overflow is the step's."""
    two_ranks = [Dump(NAN, 3, 0), Dump(INF, 3, 1)]
    assert judged(two_ranks, 1, kinds).exit_code == 0
    assert judged([*two_ranks, Dump(GOOD, 4, 0), Dump(NAN, 4, 1)], 1, kinds).exit_code == 1
    assert judged([*two_ranks, Dump(GOOD, 4, 0), Dump(NAN, 4, 1)], 2, kinds).exit_code == 0


def paths_of(at: Path, names: list[str], value: float = math.nan) -> list[Path]:
    for name in names:
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        save_file({"w": np.array([value])}, at / name)
    return [at / name for name in names]


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (["step_10/rank0.pt", "step_10/rank1.pt"], 1),
        (["rank0/step_10.pt", "rank1/step_10.pt"], 1),
        (["step3-00001.pt", "step3-00002.pt"], 2),
        (["step_3/grads-00001-of-00002.pt", "step_3/grads-00002-of-00002.pt"], 1),
        (["step3_gpu0.pt", "step3_gpu1.pt", "step4_gpu0.pt", "step4_gpu1.pt"], 2),
        (["epoch1/step1.pt", "epoch2/step1.pt"], 2),
        (["a/step1.pt", "b/step1.pt"], 1),
        (["step1/part0.pt", "step01/part1.pt"], 2),
        (["step1.pt", "step1.pt"], 2),
        (["rank0.pt", "rank1.pt"], 1),
    ],
)
def test_parts_of_one_step_differ_in_the_number_of_the_part_only(
    names: list[str], steps: int, tmp_path: Path
) -> None:
    paths = paths_of(tmp_path, names)
    allowed = gradtool.check(*paths, thresholds={"GT103.max_consecutive": steps})
    assert (allowed.findings, allowed.exit_code) == ((), 0)
    if steps > 1:
        (one,) = gradtool.check(*paths, thresholds={"GT103.max_consecutive": steps - 1}).findings
        assert (one.code, one.value) == ("GT103", steps)


def test_a_dump_that_the_call_does_not_fit_keeps_its_code_in_a_streak(tmp_path: Path) -> None:
    """It is exit code 2, which neither an excuse nor its finding's would give."""
    sick = {"model": {"w": torch.tensor([math.nan])}, "grads": {"w": torch.ones(1)}}
    for step in (1, 3):
        torch.save(sick, tmp_path / f"step{step}.pt")
    save_file({"w": np.ones(1)}, tmp_path / "step2.safetensors")
    paths = [tmp_path / name for name in ("step1.pt", "step2.safetensors", "step3.pt")]
    for fail_on in ("error", "warning"):
        outcome = gradtool.check(
            *paths, section="model", fail_on=fail_on, thresholds={"GT103.max_consecutive": 2}
        )
        assert [one.exit_code for one in outcome.verdicts] == [
            int(fail_on == "warning"), 2, int(fail_on == "warning")
        ]  # fmt: skip
        assert outcome.verdicts[1].failed
        assert outcome.exit_code == 2


def test_every_single_step_is_an_error_unless_something_is_set(kinds: Path) -> None:
    outcome = gradtool.check(Dump(NAN, 1, 0).at(kinds))
    assert [(one.code, one.severity) for one in outcome.all_findings] == [("GT101", "error")]
    assert judged([Dump(NAN, 1, 0)], 0, kinds).findings == ()


def test_a_streak_excuses_nothing_but_what_is_not_finite(kinds: Path) -> None:
    outcome = gradtool.check(
        Dump(NAN, 1, 0).at(kinds),
        thresholds={"GT103.max_consecutive": 1, "GT006.min_tensors": 2},
    )
    assert [(one.code, one.severity) for one in outcome.all_findings] == [
        ("GT006", "error"),
        ("GT101", "warning"),
    ]
    assert outcome.exit_code == 1


def test_weights_that_are_not_finite_are_no_overflow_of_a_step(tmp_path: Path) -> None:
    path = tmp_path / "step1.pt"
    sick = {"model": {"w": torch.tensor([math.nan])}, "grads": {"w": torch.ones(1)}}
    torch.save(sick, path)
    outcome = gradtool.check(path, thresholds={"GT103.max_consecutive": 3})
    assert [(one.code, one.severity, one.tensor) for one in outcome.all_findings] == [
        ("GT104", "error", "model.w")
    ]


def test_steps_that_begin_anew_in_each_epoch_are_in_the_order_of_their_paths(
    tmp_path: Path,
) -> None:
    paths = [tmp_path / f"epoch{epoch}" / f"step{step}.pt" for epoch in (1, 2) for step in (1, 2)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        value = math.nan if path.name == "step1.pt" else 1.0
        torch.save({"w": torch.tensor([value])}, path)
    outcome = gradtool.check(*reversed(paths), thresholds={"GT103.max_consecutive": 1})
    assert [verdict.path for verdict in outcome.verdicts] == [str(path) for path in paths]
    assert outcome.exit_code == 0  # between two steps that are not finite there is one that is


def test_a_step_that_is_skipped_excuses_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "step1.pt"
    torch.save({part: {"w": torch.tensor([math.nan])} for part in ("model", "grads")}, path)
    outcome = gradtool.check(path, thresholds={"GT103.max_consecutive": 3})
    assert [(one.code, one.severity) for one in outcome.all_findings] == [
        ("GT104", "error"),
        ("GT101", "warning"),
    ]
    assert outcome.exit_code == 1


def test_a_step_that_the_dump_notes_counts_before_that_of_its_path(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    steps = {"step900.safetensors": 2, "step1.safetensors": 5, "step7.safetensors": None}
    for name, step in steps.items():
        dump_gradients([("w", parameter)], tmp_path / name, step=step)
    paths = [tmp_path / name for name in steps]
    outcome = gradtool.check(*paths)
    assert [(Path(one.path).name, one.step) for one in outcome.verdicts] == [
        ("step900.safetensors", 2),
        ("step1.safetensors", 5),
        ("step7.safetensors", 7),
    ]


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step000010", 10),
        ("global_step100", 100),
        ("checkpoint-500/grads", 500),
        ("ckpt_3/iter=7", 7),
        ("Iteration12", 12),
        ("step1/step2", 2),
        ("grads", None),
        ("12", None),
        ("step", None),
        ("step-x5", None),
        ("timestep5", None),
        ("mystep7", None),
        ("my-step7", 7),
        ("step" + "1" * 18, 111_111_111_111_111_111),
        ("step" + "1" * 19, None),
        ("step4-timestep5", 4),
        ("step_10/rank1", 10),
        ("step_10/model-00001-of-00002", 10),
        ("step_10/gpu3_shard2", 10),
        ("step_10/part3worker4", 10),
        ("step_10/grads_0001", None),
        ("ckpt2/grads_0001-rank3", None),
        ("step_10/rank1/grads", 10),
        ("timestep_10/grads", None),
    ],
)
def test_the_step_in_a_path(name: str, step: int | None, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"w": np.ones(1)}, path)
    path = path.relative_to(tmp_path)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path)
        (verdict,) = gradtool.check(path).verdicts
        (lost,) = gradtool.check(f"{path}.gone").verdicts
    assert (verdict.step, lost.step) == (step, step)
