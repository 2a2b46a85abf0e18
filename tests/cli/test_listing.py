"""The list of the checkpoints that a path holds, of which none was chosen."""

from __future__ import annotations

import csv
import io
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import error_lines, on_terminal, run
from reports.parsers import markdown_tables, validator
from safetensors.numpy import save_file

STEPS = 25
UNREADABLE = 3
PICKED = "run/step_0240.safetensors"
"""The last step that can be read."""


def save(path: Path, *values: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"w": np.float32(values)}, path)


@pytest.fixture
def yard(tmp_path: Path) -> Path:
    """A run of steps, one of which is cut; a folder of checkpoints; a single dump."""
    for number in range(STEPS):
        save(tmp_path / "run" / f"step_{number * 10:04}.safetensors", 3.0, number)
    cut = tmp_path / "run" / f"step_{UNREADABLE * 10:04}.safetensors"
    cut.write_bytes(b"\x10garbage")
    for step in (500, 1000):
        save(tmp_path / "trained" / f"checkpoint-{step}" / "model.safetensors", 1.0)
    save(tmp_path / "alone.safetensors", 3.0, 4.0)
    return tmp_path


def content_of(folder: Path) -> dict[str, bytes | None]:
    """Everything under `folder`, hidden files and empty directories included."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def listed(yard: Path, *args: str) -> dict[str, Any]:
    """The only list, as JSON."""
    result = run(*args, "-f", "json", cwd=yard)
    assert result.returncode == 2
    found: dict[str, Any] = json.loads(result.stdout)
    validator("listing-1").validate(found)
    return found


COMMANDS = ["inspect", "clip --max-norm 1 -o out", "clip --max-norm 1 --dry-run"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_is_listed_in_the_order_of_its_steps_and_nothing_is_written(
    command: str, yard: Path
) -> None:
    before = content_of(yard)
    name, *options = command.split()
    found = listed(yard, name, "run", *options)
    assert (found["path"], found["kind"]) == ("run", "run")
    assert [one["step"] for one in found["checkpoints"]] == [10 * at for at in range(STEPS)]
    for at, one in enumerate(found["checkpoints"]):
        path = yard / one["path"]
        assert path == yard / "run" / f"step_{at * 10:04}.safetensors"
        assert (one["files"], one["bytes"]) == (1, path.stat().st_size)
        assert one["layout"] == (None if at == UNREADABLE else "safetensors")
    assert content_of(yard) == before


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("quiet", ["", "-q"])
def test_one_line_on_stderr_says_which_to_name_and_the_list_says_how(
    command: str, quiet: str, yard: Path
) -> None:
    name, *options = [*command.split(), *quiet.split()]
    result = run(name, "run", *options, cwd=yard)
    assert result.returncode == 2
    assert result.stderr == (
        f"gradtool: error: run: holds 25 steps of a run; name one, as {PICKED}\n"
    )
    lines = result.stdout.splitlines()
    assert lines[0] == "run: 25 steps of a run"
    does = "to read one: gradtool inspect" if name == "inspect" else "to clip one: gradtool clip"
    given = [] if name == "inspect" else command.split()[1:]
    assert lines[-1] == " ".join([does, PICKED, *given])
    assert run(*lines[-1].split()[4:], cwd=yard).returncode == 0
    (yard / "out").unlink(missing_ok=True)
    assert sum(line.startswith("run/step_") for line in lines) == 20
    assert "… 5 more (--all shows them)" in lines
    whole = run(name, "run", *options, "--all", cwd=yard).stdout.splitlines()
    assert sum(line.startswith("run/step_") for line in whole) == STEPS


@pytest.mark.parametrize(
    ("places", "path"),
    [
        (["run/step_00*"], "run/step_00*"),
        (
            [f"run/step_00{at}0.safetensors" for at in (0, 1)],
            "run/step_0000.safetensors and 1 more",
        ),
        (["alone.safetensors", "trained"], "alone.safetensors and 1 more"),
    ],
)
def test_clip_takes_one_of_several_that_are_named(places: list[str], path: str, yard: Path) -> None:
    before = content_of(yard)
    found = listed(yard, "clip", *places, "--max-norm", "1", "-o", "out")
    assert found["path"] == path
    assert len(found["checkpoints"]) == (10 if "*" in path else 2)
    assert content_of(yard) == before


def test_the_line_that_picks_one_repeats_what_was_asked_for(yard: Path) -> None:
    given = ["--max-norm", "0.5", "-o", "a b", "-i", "w*", "-x", "*.b", "--nonfinite", "zero"]
    result = run("clip", "run", *given, "--all", "--no-progress", cwd=yard)
    last = shlex.split(result.stdout.splitlines()[-1])
    assert last[:7] == ["to", "clip", "one:", "gradtool", "clip", PICKED, "--max-norm"]
    assert sorted(last[6:]) == sorted(given)
    assert run(*last[4:], cwd=yard).returncode == 0
    assert (yard / "a b").is_file()


def test_what_cannot_be_read_is_told_where_it_is_not_shown(yard: Path) -> None:
    (yard / "run" / "step_0240.safetensors").write_bytes(b"\x10garbage")
    text = run("inspect", "run", cwd=yard).stdout
    assert "… 5 more, 1 of which cannot be read (--all shows them)" in text
    assert text.endswith("gradtool inspect run/step_0230.safetensors\n")
    for path in (yard / "run").iterdir():
        path.write_bytes(b"\x10garbage")
    assert run("inspect", "run", cwd=yard).returncode == 2


def test_each_format_lists_the_same(yard: Path) -> None:
    wanted = [
        [one["path"], str(one["step"])] for one in listed(yard, "inspect", "run")["checkpoints"]
    ]
    rows = list(csv.reader(io.StringIO(run("inspect", "run", "-f", "csv", cwd=yard).stdout)))
    assert [row[:2] for row in rows[1:]] == wanted
    markdown = run("inspect", "run", "-f", "markdown", "--all", cwd=yard).stdout
    ((_, *cells),) = markdown_tables(markdown)
    assert [row[:2] for row in cells] == wanted
    table = run("inspect", "run", "--all", cwd=yard).stdout.splitlines()
    shown = [line.split()[:2] for line in table if line.startswith("run/")]
    assert shown == wanted


def test_it_goes_where_reports_go(yard: Path) -> None:
    result = run("inspect", "run", "-f", "json:list.json", "-f", "csv", cwd=yard)
    assert (result.returncode, result.stdout.splitlines()[0]) == (2, "path,step,layout,files,bytes")
    assert len(json.loads((yard / "list.json").read_text())["checkpoints"]) == STEPS
    result = run("inspect", "run", "-f", "json", "-o", "run/step_0000.safetensors", cwd=yard)
    assert (result.returncode, result.stdout) == (2, "")
    assert "is one of the files to read" in result.stderr


def test_a_folder_of_checkpoints_lists_what_is_below_it(yard: Path) -> None:
    found = listed(yard, "inspect", "trained")
    assert [(one["path"], one["step"]) for one in found["checkpoints"]] == [
        ("trained/checkpoint-500", 500),
        ("trained/checkpoint-1000", 1000),
    ]
    result = run("inspect", "trained/checkpoint-1000", cwd=yard)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("report_format", ["table", "json"])
def test_beside_what_is_measured_the_line_on_stderr_stands(report_format: str, yard: Path) -> None:
    paths = ("alone.safetensors", "run", "trained")
    result = run("inspect", *paths, "-f", report_format, cwd=yard)
    assert result.returncode == 2
    assert [line.split(": ")[2] for line in error_lines(result)] == ["run", "trained"]
    alone = run("inspect", "alone.safetensors", "-f", report_format, cwd=yard)
    assert len(result.stdout.splitlines()) == len(alone.stdout.splitlines())
    assert "step_0" not in result.stdout


def test_several_lists_are_a_line_of_json_each(yard: Path) -> None:
    result = run("inspect", "run", "trained", "nowhere", "-f", "json", cwd=yard)
    assert (result.returncode, len(error_lines(result))) == (3, 3)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["path"] for one in found] == ["run", "trained"]
    for one in found:
        validator("listing-1").validate(one)
    tables = run("inspect", "run", "trained", cwd=yard).stdout.split("\n\ntrained: ")
    assert len(tables) == 2


def test_tables_fit_the_terminal_and_the_command_stays_whole(yard: Path) -> None:
    folder = f"trained/{'n' * 120}"
    for step in (1, 2):
        save(yard / folder / f"checkpoint-{step}" / "model.safetensors", 1.0)
    command = ["inspect", str(yard / folder)]
    narrow, wide = (
        on_terminal(*command, "--color", "never", columns=columns, code=2) for columns in (80, 400)
    )
    assert max(len(line) for line in narrow.splitlines()[2:5]) <= 80
    for text in (narrow, wide):
        assert f"gradtool inspect {yard}/{folder}/checkpoint-2" in text
    assert f"{yard}/{folder}/checkpoint-1" in wide


def test_colours_follow_the_terminal_no_color_and_the_option(yard: Path) -> None:
    command = ["inspect", str(yard / "run")]
    assert "\x1b[31m" in on_terminal(*command, code=2)  # what cannot be read
    assert "\x1b" not in on_terminal(*command, env={"NO_COLOR": "1"}, code=2)
    assert "\x1b" not in on_terminal(*command, "--color", "never", code=2)
    assert "\x1b" not in run(*command).stdout
    assert "\x1b[31m" in run(*command, "--color", "always").stdout


def test_names_cannot_act_on_the_terminal_or_the_shell(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path / "a\x1b[2J $(id)" / f"step{step}.safetensors", 1.0)
    result = run("inspect", "a\x1b[2J $(id)", cwd=tmp_path)
    assert result.returncode == 2
    assert "\x1b" not in result.stdout + result.stderr
    last = result.stdout.splitlines()[-1]
    assert last == r"to read one: gradtool inspect 'a\x1b[2J $(id)/step2.safetensors'"
