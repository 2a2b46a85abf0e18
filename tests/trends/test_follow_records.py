"""`gradtool trend --follow` beside a training that records its steps: both are processes."""

from __future__ import annotations

import json
import math
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import error_lines, run
from environment import PLAIN
from reports.parsers import strict_json, validator

from trends.processes import INTERRUPTED, ended, following, line, noting
from trends.runs import write_run

TRAINING = Path(__file__).with_name("training.py")

Step = Callable[[str], float]


@contextmanager
def training(store: Path) -> Iterator[Step]:
    """A training process: it does the step that it is told to, and says its true norm."""
    command = [sys.executable, str(TRAINING), str(store)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=PLAIN, **pipes) as process:  # type: ignore[call-overload]

        def step(words: str) -> float:
            process.stdin.write(f"{words}\n")
            process.stdin.flush()
            return float(process.stdout.readline())

        try:
            yield step
        finally:
            process.kill()


def norm_in(text: str) -> float:
    """The norm of a line, five digits of it."""
    return float(text.partition("L2 norm ")[2].split()[0])


def test_each_row_is_a_line_while_the_training_goes_on(tmp_path: Path) -> None:
    store = tmp_path / "run.rows"
    norms: dict[int, float] = {}
    with training(store) as step:
        norms.update({number: step(str(number)) for number in (1, 2)})
        with following(str(store)) as process:
            told = [line(process), line(process)]  # those that are there come first
            for number in (3, 4, 5):
                norms[number] = step(str(number))
                told.append(line(process))
            assert [text.split("  ")[0] for text in told] == [f"step {n}" for n in norms]
            for text, norm in zip(told, norms.values(), strict=True):
                assert math.isclose(norm_in(text), norm, rel_tol=1e-4)
            with training(store) as resumed:  # from a checkpoint of step 3
                for number in (4, 5, 6):
                    norm = resumed(str(number))
                    text = line(process)
                    known = " changed" if number < 6 else ""
                    assert text.split("  ")[0] == f"step {number}{known}"
                    assert math.isclose(norm_in(text), norm, rel_tol=1e-4)
            process.send_signal(signal.SIGINT)
            assert ended(process) == (INTERRUPTED, "", "gradtool: interrupted\n")


def test_a_link_leads_to_a_store(tmp_path: Path) -> None:
    store, link = tmp_path / "run.rows", tmp_path / "newest.rows"
    link.symlink_to(store.name)
    with training(store) as step:
        norm = step("1")
        with following(str(link)) as process:
            assert math.isclose(norm_in(line(process)), norm, rel_tol=1e-4)
    (shown,) = strict_json(run("trend", str(link), "-f", "json").stdout)["steps"]
    assert math.isclose(shown["norm"], norm, rel_tol=1e-12)


def test_lines_are_those_of_the_report(tmp_path: Path) -> None:
    store = tmp_path / "run.rows"
    words = [*map(str, range(1, 9)), "9 large", "10", "11 nan", "12"]
    said: dict[str, list[str]] = {"json": [], "csv": []}
    with training(store) as step:
        for number, word in enumerate(words):
            step(word)
            if number == 5:
                with following(str(store), "-f", "json") as process:
                    said["json"] = [line(process) for _ in range(6)]
        options = ("--max-consecutive-nonfinite", "0", "--max-norm", "1")
        with following(str(store), *options, "-f", "csv") as process:
            said["csv"] = [line(process) for _ in range(13)]
    whole = strict_json(run("trend", str(store), "-f", "json").stdout)
    steps = [strict_json(text) for text in said["json"]]
    assert steps == whole["steps"][:6]
    validator("trend-1").validate({**whole, "steps": steps})
    report = run("trend", str(store), *options, "-f", "csv").stdout
    assert said["csv"] == report.splitlines()
    assert [text.split(",")[0] for text in said["csv"] if "GT210" in text or "GT101" in text] == [
        "9",
        "11",
    ]


def test_a_store_may_come_later_and_a_broken_step_ends_it(tmp_path: Path) -> None:
    store = tmp_path / "run.rows"
    with following(str(store), "--fail-fast") as process:
        assert process.stderr is not None
        waiting = process.stderr.readline()
        assert waiting == f"gradtool: no steps yet: waiting for the first in {store}\n"
        with training(store) as step:
            step("1")
            assert line(process).startswith("step 1  ")
            step("2 nan")
            code, out, err = ended(process)
    assert (code, err) == (1, "")
    assert out.startswith("step 2  L2 norm NaN") and "GT101 nan: " in out and out.count("\n") == 1


def test_a_command_is_given_the_finding_of_each_step(tmp_path: Path) -> None:
    store, notes = tmp_path / "run.rows", tmp_path / "notes"
    with (
        training(store) as step,
        following(str(store), "--on-finding", noting(notes), "-q") as process,
    ):
        for word in ("1", "2 nan", "3 nan", "4", "5 nan"):
            step(word)
        for number in (2, 3, 5):  # of all of them -q shows what was found only
            assert line(process).startswith(f"step {number}  ")
        with training(store) as resumed:
            resumed("3 nan")
            assert line(process).startswith("step 3  ")  # the same again, and no new finding
            resumed("4 nan")
            assert line(process).startswith("step 4 changed  ")
            resumed("6 nan")  # the command for step 4 ended before this line
            assert line(process).startswith("step 6  ")
        process.send_signal(signal.SIGINT)
        assert ended(process)[0] == INTERRUPTED
    said = [json.loads(text)["in"] for text in notes.read_text().splitlines()]
    assert [one["step"] for one in said][:4] == [2, 3, 5, 4]
    assert {one["code"] for one in said} == {"GT101"}
    assert {one["path"] for one in said} == {str(store)}


@pytest.mark.parametrize("damage", ["foreign", "cut", "overwritten"])
def test_a_damaged_store_is_one_finding(tmp_path: Path, damage: str) -> None:
    store = tmp_path / "run.rows"
    with training(store) as step:
        for number in range(1, 30):
            step(str(number))
    data = store.read_bytes()
    if damage == "foreign":
        store.write_bytes(b"of somebody else" * 99)
    elif damage == "cut":
        store.write_bytes(data[: len(data) // 2])
    else:
        store.write_bytes(data[:4096] + bytes(len(data) - 4096))
    options = ("--fail-fast", "--settle", "0.5")
    with following(str(store), *options) as process:
        code, out, err = ended(process)
    assert code == 3
    last = out.splitlines()[-1]
    assert "GT001 unreadable: " in last and "its rows cannot be read" in last
    assert "Traceback" not in err
    assert out.count("GT001") == 1


def test_dumps_and_stores_are_followed_together(tmp_path: Path) -> None:
    store = tmp_path / "a.rows"
    folder = write_run(tmp_path / "dumps", {7: {"a": [3.0, 4.0]}})
    with training(store) as step, following(str(folder), str(tmp_path / "*.rows")) as process:
        assert line(process).startswith(f"step 7 ({folder}/step_7.safetensors)  L2 norm 5.0000")
        step("1")
        assert line(process).startswith(f"step 1 ({store})  ")
        with training(tmp_path / "b.rows") as other:
            other("1")
            assert line(process).startswith(f"step 1 ({tmp_path / 'b.rows'})  ")


def test_what_rows_cannot_tell_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "run.rows"
    with training(store) as step:
        step("1")
    for options in ("--section grads", "--norm-type 1"):
        result = run("trend", str(store), "--follow", *shlex.split(options))
        assert (result.returncode, result.stdout) == (2, "")
        assert len(error_lines(result)) == 1
