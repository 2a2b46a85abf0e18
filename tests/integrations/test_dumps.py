"""When a loop's gradients are dumped and where to, and what is there without any framework."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import run as gradtool_command
from torch import nn

import gradtool
from gradtool import integrations
from gradtool.errors import FileAccessError, UsageError
from gradtool.integrations import GradientDumps

FRAMEWORKS = {
    "LightningDumpCallback": ["lightning", "pytorch_lightning"],
    "TrainerDumpCallback": ["transformers"],
}
"""What each callback is for, under all its names."""


def pairs(*elements: float) -> list[tuple[str, nn.Parameter]]:
    """A parameter `w` with these elements of its gradient."""
    parameter = nn.Parameter(torch.zeros(len(elements)))
    parameter.grad = torch.tensor(elements)
    return [("w", parameter)]


def steps_in(directory: Path) -> list[int]:
    return [int(path.name[len("grads_step") :][:6]) for path in sorted(directory.iterdir())]


def test_every_step_that_the_number_divides_is_dumped_as_it_was(tmp_path: Path) -> None:
    dumps = GradientDumps(tmp_path / "run" / "grads", every=3)
    for step in range(1, 8):
        path = dumps.before_clipping(pairs(3.0 * step, 4.0 * step), step=step)
        assert (path is not None) == (step in (3, 6))
        if path is not None:
            assert path == str(tmp_path / "run" / "grads" / f"grads_step{step:06d}.safetensors")
            measurement = gradtool.measure(path)
            assert measurement.total.norm == 5.0 * step
    run = gradtool_command("inspect", str(tmp_path / "run" / "grads"), "-f", "csv")
    assert [line.split(",")[1] for line in run.stdout.splitlines()[1:]] == ["3", "6"]
    run = gradtool_command("check", str(tmp_path / "run" / "grads"))
    assert run.returncode == 0
    assert "(step 3, 1 gradient, L2 norm 15.0000)" in run.stdout


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_of_broken_steps_in_a_row_the_first_is_dumped(tmp_path: Path, bad: float) -> None:
    dumps = GradientDumps(tmp_path)
    broken = {2, 3, 4, 6, 9, 10}
    for step in range(1, 12):
        dumps.before_clipping(pairs(1.0, bad if step in broken else 2.0), step=step)
    assert steps_in(tmp_path) == [2, 6, 9]


def test_broken_rows_are_dumped_so_often_and_then_not_looked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dumps = GradientDumps(tmp_path, most_nonfinite=2)
    for step in range(1, 10):
        dumps.before_clipping(pairs(math.nan if step % 2 else 1.0), step=step)
    assert steps_in(tmp_path) == [1, 3]
    assert not dumps.looks_at(10)
    assert [record.message for record in caplog.records] == [
        f"step 1: gradients with norm nan: {tmp_path}/grads_step000001.safetensors",
        f"step 3: gradients with norm nan: {tmp_path}/grads_step000003.safetensors",
        "step 3: no further norms that are not finite are dumped",
    ]


def test_the_steps_that_are_due_are_dumped_whatever_became_of_the_others(tmp_path: Path) -> None:
    dumps = GradientDumps(tmp_path, every=4, most_nonfinite=1)
    for step in range(1, 9):
        dumps.before_clipping(pairs(math.nan), step=step)
    assert steps_in(tmp_path) == [1, 4, 8]


def test_without_nonfinite_nothing_is_looked_at_between_dumps(tmp_path: Path) -> None:
    def untouched() -> Iterator[tuple[str, nn.Parameter]]:
        pytest.fail("looked at")
        yield from ()

    dumps = GradientDumps(tmp_path, every=2, nonfinite=False)
    assert dumps.before_clipping(untouched(), step=1) is None
    assert not dumps.looks_at(1)
    assert dumps.looks_at(2)
    assert dumps.before_clipping(pairs(math.nan), step=2) is not None
    assert dumps.before_clipping(pairs(math.nan), step=3) is None


def test_a_further_look_at_a_step_replaces_the_first(tmp_path: Path) -> None:
    dumps = GradientDumps(tmp_path, every=5, most_nonfinite=1)
    dumps.before_clipping(pairs(1.0), step=5)
    whole = dumps.before_clipping(pairs(2.0), step=5)
    assert whole is not None
    assert gradtool.measure(whole).total.norm == 2.0
    dumps.before_clipping(pairs(math.nan, 1.0), step=7)
    assert dumps.looks_at(7)
    whole = dumps.before_clipping(pairs(math.nan, 3.0), step=7)
    assert whole is not None
    assert gradtool.measure(whole).total.finite_norm == 3.0


def test_several_looks_at_a_step_are_one_step_of_a_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As passes inside of passes make them: what breaks may be reached only by the last look."""
    dumps = GradientDumps(tmp_path, most_nonfinite=2)
    for step in range(1, 7):
        for reached in (1.0, math.nan, math.nan):
            dumps.before_clipping(pairs(1.0, 2.0 if step == 4 else reached), step=step)
    assert steps_in(tmp_path) == [1, 5]
    assert [record.message[:29] for record in caplog.records] == [
        "step 1: gradients with norm n",
        "step 5: gradients with norm n",
        "step 5: no further norms that",
    ]


def test_a_loss_scale_is_noted_and_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dumps = GradientDumps(tmp_path, every=1)
    path = dumps.before_clipping(pairs(1024.0), step=1, loss_scale=512.0)
    assert path is not None
    assert gradtool.measure(path).total.norm == 2.0
    dumps.before_clipping(pairs(math.inf), step=2, loss_scale=512.0)
    assert "norm inf (multiplied by a loss scale of 512.0)" in caplog.text


def test_a_dump_that_fails_is_told_of_once_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "grads"
    directory.write_text("in the way")
    dumps = GradientDumps(directory, every=1)
    for step in (1, 2):
        assert dumps.before_clipping(pairs(1.0), step=step) is None
    (told,) = caplog.records
    assert told.levelno == logging.WARNING
    assert told.message.startswith(f"step 1: gradients not dumped: {directory}: cannot be written")
    assert dumps.before_clipping(3, step=2) is None
    told = caplog.records[-1].message
    assert told.startswith("step 2: gradients not dumped: expected a module or pairs of name and ")
    directory.unlink()
    assert dumps.before_clipping(pairs(1.0), step=3) is not None
    assert dumps.before_clipping(pairs(), step=4) is not None
    assert dumps.before_clipping([("w", nn.Parameter(torch.zeros(1)))], step=5) is None
    assert "step 5: gradients not dumped" in caplog.text
    assert "no parameter has a gradient" in caplog.text


@pytest.mark.parametrize("every", [1, None])
@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (lambda model: model.parameters(), "not list of Parameter"),
        (lambda model: dict(model.named_parameters()), "not dict"),
        (lambda model: model.requires_grad_(requires_grad=False), "no parameter has a gradient"),
        (lambda _model: 3, "not int"),
    ],
)
def test_what_has_no_gradients_to_look_at_is_told_of_once(
    given: Callable[[nn.Module], Any],
    problem: str,
    every: int | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    dumps = GradientDumps(tmp_path, every=every)
    for step in (1, 2):
        assert dumps.before_clipping(given(nn.Linear(2, 1)), step=step) is None
    (told,) = caplog.records
    assert told.message.startswith("step 1: gradients not dumped: ")
    assert problem in told.message


def test_what_dumps_are_made_with_can_be_looked_at() -> None:
    assert repr(GradientDumps("my grads", every=100)) == (
        "GradientDumps('my grads', every=100, nonfinite=True, most_nonfinite=10, on_error='warn')"
    )
    assert repr(GradientDumps(Path("a"), most_nonfinite=3, on_error="raise")) == (
        "GradientDumps('a', every=None, nonfinite=True, most_nonfinite=3, on_error='raise')"
    )


def test_a_dump_that_fails_ends_the_training_of_who_asks_for_that(tmp_path: Path) -> None:
    directory = tmp_path / "grads"
    directory.write_text("in the way")
    dumps = GradientDumps(directory, every=1, on_error="raise")
    with pytest.raises(FileAccessError, match="cannot be written"):
        dumps.before_clipping(pairs(1.0), step=1)


def test_what_cannot_be_is_refused_when_it_is_asked_for() -> None:
    for wrong in (
        {"every": 0},
        {"every": 1.5},
        {"every": True},
        {"most_nonfinite": 0},
        {"nonfinite": False},
        {"on_error": "ignore"},
    ):
        with pytest.raises(UsageError):
            GradientDumps("grads", **wrong)  # type: ignore[arg-type]


def test_all_names_are_listed_without_their_frameworks() -> None:
    assert dir(integrations) == ["GradientDumps", *FRAMEWORKS]
    assert integrations.__all__ == dir(integrations)
    with pytest.raises(AttributeError):
        _ = integrations.nothing
    code = "import gradtool.integrations as i, sys; print(dir(i), 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert run.stdout.strip() == f"{dir(integrations)} False"


@pytest.mark.parametrize(("name", "frameworks"), FRAMEWORKS.items())
def test_a_framework_that_is_missing_is_named(name: str, frameworks: list[str]) -> None:
    # None has Python behave as if it were not installed, also where it is.
    code = f"""import sys
sys.modules |= dict.fromkeys({frameworks})
try: from gradtool.integrations import {name}
except ModuleNotFoundError as error: print(error)"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert run.stdout.startswith(f"{name} needs {frameworks[0]}: pip install ")
    assert len(run.stdout.splitlines()) == 1
