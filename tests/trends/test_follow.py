"""`gradtool trend --follow` as a process: what it writes, how it ends, and what it runs."""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import ENVIRONMENT, error_lines, run
from reports.parsers import markdown_tables, strict_json, validator

from trends.processes import INTERRUPTED, ended, following, line, noting
from trends.runs import write_run, write_step

OK = {"a": [3.0, 4.0], "b": [1.0, -2.0]}
NAN = {"a": [3.0, 4.0], "b": [math.nan, 1.0]}


def test_steps_are_shown_as_they_come_until_it_is_interrupted(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {1: OK, 2: OK})
    with following(str(folder)) as process:
        assert line(process).startswith("step 1  L2 norm 5.4772 ")
        assert line(process).startswith("step 2  L2 norm ")
        write_run(folder, {3: {"a": [6.0, 8.0]}})
        assert line(process).startswith("step 3  L2 norm 10.000 ")
        (folder / "step_1.safetensors").unlink()
        write_step(folder / "step_2.safetensors", NAN)
        changed = line(process)
        assert (
            changed.startswith("step 2 changed  L2 norm NaN") and "GT101 nan: b: 1 NaN" in changed
        )
        process.send_signal(signal.SIGINT)
        assert ended(process) == (INTERRUPTED, "", "gradtool: interrupted\n")


def test_a_run_may_begin_later(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with following(str(folder)) as process:
        assert process.stderr is not None
        waiting = process.stderr.readline()
        assert waiting == f"gradtool: no steps yet: waiting for the first in {folder}\n"
        write_run(folder, {1: OK})
        assert line(process).startswith("step 1 ")


STREAK = {1: OK, 2: NAN, 3: NAN, 4: OK}
"""Of which steps 2 and 3 together are a finding, if one step may be skipped."""


@contextmanager
def followed_streak(tmp_path: Path, *args: str) -> Iterator[Callable[[], str]]:
    """A run that is followed while the steps of STREAK are written: its next line."""
    folder = write_run(tmp_path / "run", {1: STREAK[1], 2: STREAK[2], 3: STREAK[3]})
    options = ("--max-consecutive-nonfinite", "1", "--max-norm", "1", *args)
    with following(str(folder), *options) as process:
        yield lambda: line(process)
        write_run(folder, {4: STREAK[4]})
        line(process)
        process.send_signal(signal.SIGINT)
        code, out, err = ended(process)
    assert (code, out, err) == (INTERRUPTED, "", "gradtool: interrupted\n")


def reported(tmp_path: Path, *args: str) -> str:
    """What `trend` reports of the steps that were there."""
    options = ("--no-cache", "--max-consecutive-nonfinite", "1", "--max-norm", "1")
    return run("trend", str(tmp_path / "run"), *options, "--last", "3", *args).stdout


def test_lines_of_json_are_those_of_the_report(tmp_path: Path) -> None:
    with followed_streak(tmp_path, "-f", "json") as next_line:
        said = [strict_json(next_line()) for _ in range(4)]
        whole = strict_json(reported(tmp_path, "-f", "json"))
    assert said == [*whole["steps"], *whole["findings"]]
    validator("trend-1").validate({**whole, "steps": said[:3], "findings": said[3:]})


def test_lines_of_csv_are_those_of_the_report(tmp_path: Path) -> None:
    with followed_streak(tmp_path, "-f", "csv") as next_line:
        said = "".join(f"{next_line()}\n" for _ in range(4))
        assert said == reported(tmp_path, "-f", "csv").replace("\r\n", "\n")


def test_lines_of_markdown_are_a_table(tmp_path: Path) -> None:
    with followed_streak(tmp_path, "-f", "markdown") as next_line:
        (table,) = markdown_tables("".join(f"{next_line()}\n" for _ in range(6)))
    head, *rows = table
    assert head[:2] == ["step", "L2 norm"] and "clip_coef" in head
    assert [row[0] for row in rows] == ["1", "2", "3", "all steps together"]
    at = head.index("findings")
    assert [row[at][:5] for row in rows] == ["-", "GT101", "GT101", "GT103"]
    assert "2 steps in a row" in rows[3][at]


@pytest.mark.parametrize(("broken", "code"), [(NAN, 1), (None, 3)])
def test_fail_fast_ends_with_the_first_step_that_fails(
    tmp_path: Path, broken: Any, code: int
) -> None:
    folder = write_run(tmp_path / "run", {1: OK})
    with following(str(folder), "--fail-fast", "--settle", "0.5") as process:
        assert line(process).startswith("step 1 ")
        if broken is None:
            (folder / "step_2.safetensors").write_bytes(b"\0" * 50)
        else:
            write_run(folder, {2: broken})
        returncode, out, err = ended(process)
    assert (returncode, err) == (code, "")
    assert out.startswith("step 2") and out.count("\n") == 1


def test_steps_that_were_there_count(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {1: OK, 2: NAN, 3: OK})
    with following(str(folder), "--fail-fast", "-q") as process:
        returncode, out, _ = ended(process)
    assert returncode == 1
    assert [text.split()[1] for text in out.splitlines()] == ["2"]  # -q: only what was found


def test_it_ends_when_nobody_reads_on(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {1: NAN})
    with following(str(folder)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        write_run(folder, {2: OK})
        assert process.wait(timeout=120) == 1


def test_a_command_is_given_each_finding_once(tmp_path: Path) -> None:
    name = "$(touch hacked)`touch hacked`;touch hacked"
    folder = write_run(tmp_path / "run", {1: OK, 2: {**OK, name: [math.inf]}})
    notes = tmp_path / "notes"
    command = f"{noting(notes)} '$HOME *' two"
    with following(str(folder), "--on-finding", command, cwd=tmp_path) as process:
        line(process)
        assert "GT10" in line(process)
        write_step(folder / "step_2.safetensors", {**OK, name: [math.inf], "c": [1.0]})
        assert "changed" in line(process)  # and the same is found
        write_run(folder, {3: NAN})
        line(process)
        write_run(folder, {4: OK})
        line(process)
        process.send_signal(signal.SIGINT)
        code, out, err = ended(process)
    assert (code, out) == (INTERRUPTED, "")
    assert err == "from the command\n" * 2 + "gradtool: interrupted\n"
    said = [json.loads(text) for text in notes.read_text().splitlines()]
    assert [(one["in"]["step"], one["in"]["tensor"]) for one in said] == [(2, name), (3, "b")]
    assert all(one["in"]["code"] in ("GT101", "GT102") for one in said)
    assert said[0]["in"]["path"] == str(folder / "step_2.safetensors")
    for one in said:
        assert one["args"] == ["$HOME *", "two"]
        assert {key: one["env"].get(key) for key in ENVIRONMENT} == ENVIRONMENT
        assert not any("touch" in value or "step_" in value for value in one["env"].values())
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("false", "false: ended with 1"),
        ("/no/such/command", "/no/such/command: cannot be run: No such file or directory"),
        ("sh -c 'kill -9 $$'", "sh: ended by SIGKILL"),
        *(
            (f"bash -c 'kill -{number} $$'", f"bash: ended by signal {number}")
            for number in [getattr(signal, "SIGRTMIN", 0) + 6]
            if hasattr(signal, "SIGRTMIN")  # macOS has none
        ),
        ("sh -c 'sleep 1000 & sleep 1000'", "sh: not finished after 0.5 s, and ended"),
    ],
)
def test_a_command_that_fails_is_said_and_no_more(
    tmp_path: Path, command: str, problem: str
) -> None:
    folder = write_run(tmp_path / "run", {1: NAN})
    options = ("--on-finding", command, "--on-finding-timeout", "0.5")
    with following(str(folder), *options) as process:
        line(process)
        write_run(folder, {2: OK})
        assert line(process).startswith("step 2 ")  # it went on
        process.send_signal(signal.SIGINT)
        code, _, err = ended(process)  # nothing that was started holds stderr open
    assert code == INTERRUPTED
    assert err == f"gradtool: --on-finding: {problem}\ngradtool: interrupted\n"


def test_a_command_ends_with_gradtool(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {1: NAN})
    pid = tmp_path / "pid"
    os.mkfifo(pid)
    command = f"sh -c 'echo $$ > {shlex.quote(str(pid))}; exec sleep 1000'"
    with following(str(folder), "--on-finding", command) as process:
        line(process)
        assert pid.read_text()  # it runs now
        process.send_signal(signal.SIGTERM)
        code, _, err = ended(process)  # as long as it ran, it would hold stderr open
    assert (code, err) == (128 + signal.SIGTERM, "gradtool: terminated\n")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--settle", "3"], "--settle needs --follow"),
        (["--fail-fast"], "--fail-fast needs --follow"),
        (["--on-finding", "true"], "--on-finding needs --follow"),
        (["--follow", "--on-finding-timeout", "3"], "--on-finding-timeout needs --on-finding"),
        (["--follow", "--on-finding", ""], "--on-finding: the command is empty"),
        (["--follow", "--on-finding", "a 'b"], '--on-finding "a \'b": No closing quotation'),
        (["--follow", "--settle", "-1"], "--settle -1.0: give a number of seconds, at least 0"),
        (["--follow", "--settle", "nan"], "--settle nan: give a number of seconds, at least 0"),
        (["--follow", "--last", "3"], "--last is not for --follow"),
        (["--follow", "--log", "x"], "--log is not for --follow"),
        (["--follow", "--tensor", "x"], "--tensor is not for --follow"),
        (["--follow", "-g", "2"], "--group-by is not for --follow"),
        (
            ["--follow", "-f", "html"],
            "--follow writes lines to stdout: no -o, and -f one of table,",
        ),
        (["--follow", "-f", "json:x"], "--follow writes lines to stdout: no -o"),
        (["--follow", "-f", "json", "-f", "csv:x"], "--follow writes lines to stdout: no -o"),
        (["--follow", "-o", "x"], "--follow writes lines to stdout: no -o"),
        (["--follow", "-f", "csv", "--long"], "--long is not for --follow"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path, options: list[str], problem: str
) -> None:
    result = run("trend", str(tmp_path), *options)
    assert (result.returncode, result.stdout) == (2, "")
    (said,) = error_lines(result)
    assert problem in said


@pytest.mark.parametrize("key", ["on-finding", "on_finding", "follow"])
def test_a_configuration_file_cannot_name_a_command(tmp_path: Path, key: str) -> None:
    folder = write_run(tmp_path / "run", {1: NAN})
    config = tmp_path / "gradtool.toml"
    config.write_text(f'{key} = "touch hacked"\n')
    result = run("trend", str(folder), "--follow", "--fail-fast", "--config", str(config))
    assert result.returncode == 2 and key in result.stderr
    assert not (tmp_path / "hacked").exists()
