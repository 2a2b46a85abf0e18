"""Runs whose steps are folders: what one lacks that others have, whoever names the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import run as gradtool_command
from safetensors.numpy import save_file

import gradtool

A = np.float32([3.0, 0.0])


def dump(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"a": A}, path)


def judged(*sources: object, **options: object) -> list[tuple[str, list[str]]]:
    """Of each verdict, in order: what it is on, and what makes it fail."""
    outcome = gradtool.check(*sources, **options)  # type: ignore[arg-type]
    assert (outcome.exit_code != 0) == any(one.failed for one in outcome.verdicts)
    return [
        (Path(one.path).name, [f.message for f in one.findings if f.severity == "error"])
        for one in outcome.verdicts
    ]


@pytest.mark.parametrize("inner", ["rank{}.safetensors", "rank_{}/g.safetensors"])
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("step", ["step_{}", "{:04}"])
def test_a_rank_that_stopped_early_is_missed_in_folders_of_steps(
    tmp_path: Path, inner: str, ranks: int, step: str
) -> None:
    run = tmp_path / "run7"
    for number in (1, 2, 3):
        for rank in range(ranks - (number == 2)):
            dump(run / step.format(number) / inner.format(rank))
    lost = inner.format(ranks - 1).split("/")[0]
    in_order = sorted(run.iterdir())
    for sources in ([run], [f"{run}/*"], [f"{run}/*/"], in_order, in_order[::-1]):
        found = dict(judged(*sources))
        assert list(found) == [step.format(number) for number in (1, 2, 3)]
        (message,) = found.pop(step.format(2))
        assert f"'{lost}' is missing" in message
        assert list(found.values()) == [[], []]
    with pytest.raises(gradtool.SeveralCheckpointsError) as caught:
        gradtool.measure(run)
    assert caught.value.kind == "run"
    assert [one.layout is None for one in caught.value.found] == [False, True, False]
    listed = gradtool_command("inspect", "run7", cwd=tmp_path)
    assert listed.returncode == 2
    assert listed.stdout.count("cannot be read") == 1
    each = gradtool_command("inspect", *map(str, in_order), cwd=tmp_path)
    assert each.returncode == 3
    assert each.stderr.count(f"'{lost}' is missing") == 1


def test_each_rank_of_a_run_by_itself_asks_for_no_completeness(tmp_path: Path) -> None:
    for step, rank in ((1, 0), (1, 1), (2, 0)):
        dump(tmp_path / "flat" / f"step{step}_rank{rank}.safetensors")
        dump(tmp_path / "folders" / f"step{step}" / f"rank{rank}.safetensors")
    for folder in ("flat", "folders"):
        for source in (tmp_path / folder, tmp_path / folder / "*"):
            verdicts = judged(source, ranks="each")
            assert len(verdicts) == 3
            assert not any(messages for _, messages in verdicts)


def test_experiments_of_other_sizes_are_no_steps_that_lack_ranks(tmp_path: Path) -> None:
    for experiment, ranks in ((1, 1), (2, 2)):
        for rank in range(ranks):
            dump(tmp_path / f"exp_{experiment}" / f"rank{rank}.safetensors")
    for sources in ([tmp_path], [tmp_path / "*"], [tmp_path / "*" / "*"]):
        assert [messages for _, messages in judged(*sources)] == [[], []]


@pytest.mark.parametrize("step", ["step_{}", "checkpoint-{}", "{:04}"])
def test_a_step_without_a_tensor_file_is_a_step(tmp_path: Path, step: str) -> None:
    for number in (1, 2, 4):
        dump(tmp_path / "run" / step.format(number) / "g.safetensors")
    empty = tmp_path / "run" / step.format(3)
    (empty / "logs").mkdir(parents=True)
    (tmp_path / "run" / "events").mkdir()  # of no step
    for source in (tmp_path / "run", f"{tmp_path}/run/*[0-9]"):
        found = judged(source)
        assert [name for name, _ in found] == [step.format(number) for number in (1, 2, 3, 4)]
        assert [name for name, messages in found if messages] == [empty.name]
        assert "holds no tensor file" in dict(found)[empty.name][0]
        assert found == judged(tmp_path / "run")
    listed = gradtool_command("inspect", "run", cwd=tmp_path)
    (line,) = (one for one in listed.stdout.splitlines() if "cannot be read" in one)
    assert empty.name in line
    assert listed.stdout.splitlines()[0].endswith("4 steps of a run")


def test_a_step_behind_a_link_is_said_not_to_be_followed(tmp_path: Path) -> None:
    for number in (1, 2):
        dump(tmp_path / "run" / f"step_{number}" / "g.safetensors")
    dump(tmp_path / "elsewhere" / "g.safetensors")
    (tmp_path / "run" / "step_3").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "run" / "latest").symlink_to("step_2")
    found = judged(tmp_path / "run")
    assert [name for name, _ in found] == ["step_1", "step_2", "step_3"]
    assert "link to a directory, not followed" in found[-1][1][0]


def test_folders_that_are_no_steps_of_the_run_may_be_empty(tmp_path: Path) -> None:
    for number in (1, 2):
        dump(tmp_path / "run" / f"step_{number}" / "g.safetensors")
    for name in ("logs", "version_0", "tmp-step_3", "rank_0"):
        (tmp_path / "run" / name).mkdir()
    assert [name for name, _ in judged(tmp_path / "run")] == ["step_1", "step_2"]


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["grads/step_1.st", "grads/step_2.st"], "run"),
        (["out/a/checkpoint-1/g.st", "out/a/checkpoint-2/g.st"], "run"),
        (
            ["g/step_1/rank0.st", "g/step_1/rank1.st", "g/step_2/rank0.st", "g/step_2/rank1.st"],
            "run",
        ),
        (
            ["g/rank0/step_1.st", "g/rank1/step_1.st", "g/rank0/step_2.st", "g/rank1/step_2.st"],
            "run",
        ),
        (["step_1/grads/g.st", "step_2/grads/g.st"], "run"),
        (["seed_1/step_1.st", "seed_1/step_2.st", "seed_2/step_1.st"], "checkpoints"),
        (["a/step_1.st", "a/step_2.st", "b/step_1.st", "b/step_2.st"], "checkpoints"),
        (["a/x/g.st", "b/g.st"], "checkpoints"),
    ],
)
def test_a_list_of_what_folders_hold_says_what_it_is(
    tmp_path: Path, files: list[str], kind: str
) -> None:
    for name in files:
        dump(tmp_path / "top" / name.replace(".st", ".safetensors"))
    with pytest.raises(gradtool.SeveralCheckpointsError) as caught:
        gradtool.measure(tmp_path / "top")
    assert caught.value.kind == kind


def test_dumps_that_note_their_steps_are_a_run_in_a_folder_too(tmp_path: Path) -> None:
    (tmp_path / "grads").mkdir()
    for name, step in (("before", "7"), ("after", "8")):
        noted = {"gradtool.dump": "1", "gradtool.step": step}
        save_file({"a": A}, tmp_path / "grads" / f"{name}.safetensors", noted)
    with pytest.raises(gradtool.SeveralCheckpointsError) as caught:
        gradtool.measure(tmp_path)
    assert (caught.value.kind, [one.step for one in caught.value.found]) == ("run", [7, 8])
