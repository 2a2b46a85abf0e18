"""`gradtool trend` from the shell: exit codes, what it says, what other programs can read."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import error_lines, on_terminal, run
from reports.parsers import markdown_tables, validator
from trends.runs import true_norm, write_run

STEPS: dict[int, Any] = {
    1: {"layers.0.w": [3.0, 4.0], "layers.1.w": [1.0, 2.0]},
    2: {"layers.0.w": [3.0, 4.0], "layers.1.w": [30.0, 40.0]},
    3: {"layers.0.w": [3.0, 4.0], "layers.1.w": [math.nan, 2.0]},
}


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(write_run(tmp_path / "run", STEPS))


def test_a_run_is_told_with_its_conclusions_first(folder: str) -> None:
    result = run("trend", folder)
    assert (result.returncode, result.stderr) == (1, "")
    lines = result.stdout.splitlines()
    assert lines[0] == f"{folder}: 3 steps, 1 to 3: 1 failed"
    assert lines[1].startswith("- step 3 is the first bad one: 1 of 2 tensors is not finite")
    header = lines.index(next(line for line in lines if line.startswith("step")))
    assert [line.split()[0] for line in lines[header + 1 : header + 4]] == ["1", "2", "3"]
    assert "GT101" in lines[header + 3]


@pytest.mark.parametrize(
    ("change", "code"), [({}, 1), ({3: STEPS[1]}, 0), ({3: STEPS[1], 2: None}, 3)]
)
def test_exit_codes_are_those_of_check(tmp_path: Path, change: dict[int, Any], code: int) -> None:
    steps = {**STEPS, **change}
    folder = write_run(tmp_path / "run", {n: step or STEPS[1] for n, step in steps.items()})
    for number, step in steps.items():
        if step is None:
            (folder / f"step_{number}.safetensors").write_bytes(b"no tensors")
    for command in (["trend", "--no-cache"], ["check"]):
        assert run(*command, str(folder)).returncode == code


def test_formats_agree(folder: str) -> None:
    documents = {
        name: run("trend", folder, "-f", name, "--max-norm", "1").stdout
        for name in ("json", "csv", "markdown")
    }
    found = json.loads(documents["json"])
    validator("trend-1").validate(found)
    rows = list(csv.DictReader(io.StringIO(documents["csv"])))
    (table,) = markdown_tables(documents["markdown"])
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    for step, row in zip(found["steps"], rows, strict=True):
        assert float(row["norm"]) == float(step["norm"]) or row["norm"] == step["norm"] == "NaN"
        assert row["top"] == step["top"]["name"]
        assert float(row["clip_coef"]) == float(step["clip_coef"]) or row["clip_coef"] == "NaN"
    assert len(table) == 4
    assert found["conclusions"][0]["tensor"] == "layers.1.w"


def test_a_log_that_sums_over_accumulation_steps_is_told(tmp_path: Path) -> None:
    """Gradients are means over eight batches, and the trainer logged the norm of their sum."""
    rng = np.random.default_rng(0)
    steps = {
        n: {f"layers.{i}.w": rng.standard_normal(256) * 1e-2 for i in range(4)} for n in (1, 2)
    }
    folder = write_run(tmp_path / "run", steps)
    log = tmp_path / "trainer_state.json"
    norms = {n: true_norm({k: v * 8.0 for k, v in tensors.items()}) for n, tensors in steps.items()}
    history = [{"step": n, "grad_norm": norm, "epoch": 0.1} for n, norm in norms.items()]
    log.write_text(json.dumps({"log_history": [*history, {"step": 2, "eval_loss": math.nan}]}))
    arguments = ("trend", str(folder), "--log", str(log))
    table = run(*arguments)
    assert (table.returncode, table.stderr) == (0, "")
    words = "8 times the true norm in all 2 steps: 8, the number of accumulation steps or ranks?"
    assert table.stdout.splitlines()[1] == f"- the logged 'grad_norm' is {words}"
    found = json.loads(run(*arguments, "-f", "json").stdout)
    validator("trend-1").validate(found)
    rows = list(csv.DictReader(io.StringIO(run(*arguments, "-f", "csv").stdout)))
    for step, row in zip(found["steps"], rows, strict=True):
        assert step["logged_norm"] == float(row["logged_norm"]) == norms[step["step"]]
        assert step["log_quotient"] == float(row["log_quotient"])
        assert math.isclose(step["log_quotient"], 8.0, rel_tol=1e-12)


def test_a_log_that_cannot_be_used_ends_it_before_anything_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    for text, code, words in (
        ("step,grad_norm\n1,?\n", 3, "log.csv: line 2: 'grad_norm' is no norm: '?'"),
        ("step,loss\n1,2\n", 2, "say by --log-key which is the norm of the gradients"),
    ):
        log.write_text(text)
        result = run("trend", str(tmp_path / "none"), "--log", str(log))
        assert (result.returncode, result.stdout) == (code, "")
        (line,) = error_lines(result)
        assert words in line
    replaced = run("trend", str(tmp_path), "--log", str(log), "-o", str(log))
    assert replaced.returncode == 2 and "is one of the files to read" in replaced.stderr


def test_csv_may_have_a_row_for_each_tensor(folder: str) -> None:
    text = run("trend", folder, "-f", "csv", "--long").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["step"], row["name"]) for row in rows] == [
        (str(step), name) for step in STEPS for name in STEPS[step]
    ]
    assert float(rows[0]["norm"]) == 5.0
    only = run("trend", folder, "-f", "csv", "--long", "--tensor", "*.1.*").stdout
    assert len(only.splitlines()) == 4


def test_groups_and_tensors_have_a_table(folder: str) -> None:
    lines = run("trend", folder, "-g", "layers.#", "--tensor", "*0.w").stdout.splitlines()
    group = next(line for line in lines if line.startswith("layers.# "))
    assert group.split()[1:4] == ["3", "5.4772", "NaN"]
    tensor = next(line for line in lines if line.startswith("layers.0.w "))
    assert tensor.split()[1:4] == ["3", "5.0000", "5.0000"]


def test_of_many_steps_the_bad_and_the_newest_are_listed(tmp_path: Path) -> None:
    steps = {n: STEPS[3 if n in (7, 8) else 1] for n in range(1, 101)}
    folder = str(write_run(tmp_path / "run", steps))

    def listed(*options: str) -> list[int]:
        lines = run("trend", folder, *options).stdout.splitlines()
        return [int(line.split()[0]) for line in lines if line.lstrip()[:1].isdigit()]

    assert listed() == [7, 8, *range(63, 101)]
    assert listed("--all") == list(range(1, 101))
    assert "… 60 more (--all shows them)" in run("trend", folder).stdout


def test_a_terminal_is_shown_a_line_of_blocks(folder: str) -> None:
    shown = on_terminal("trend", folder, code=1)
    assert "▁█!" in shown
    assert "▁" not in run("trend", folder).stdout


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["RUN", "--last", "0"],
        ["RUN", "--long"],
        ["RUN", "--cache", "x", "--no-cache"],
        ["RUN", "--cache", ""],
        ["RUN", "-g", "a..b"],
        ["RUN", "--tensor", "nowhere"],
        ["RUN", "--max-norm", "-1"],
        ["RUN", "-f", "xml"],
    ],
)
def test_usage_errors_exit_2_with_one_clear_line(args: list[str], folder: str) -> None:
    result = run("trend", *(folder if arg == "RUN" else arg for arg in args))
    assert (result.returncode, result.stdout) == (2, "")
    assert len(error_lines(result)) == 1


@pytest.mark.parametrize("paths", [["no"], ["no/*.pt"], ["no", "none"], ["no.index.json"]])
def test_where_nothing_is_it_says_so_as_inspect_does(tmp_path: Path, paths: list[str]) -> None:
    result = run("trend", *paths, cwd=tmp_path)
    inspected = run("inspect", paths[0], cwd=tmp_path)
    assert (result.returncode, result.stdout) == (3, "")
    assert (inspected.returncode, inspected.stderr) == (3, result.stderr)
    assert len(error_lines(result)) == 1


def test_a_path_that_does_not_exist_beside_a_run_is_told_with_it(tmp_path: Path) -> None:
    folder = str(write_run(tmp_path / "run", {1: STEPS[1], 2: STEPS[2]}))
    result = run("trend", folder, str(tmp_path / "no"))
    assert result.returncode == 3
    assert "no is the first bad one: it was not judged, no such file or directory" in result.stdout
    assert f"{folder}: 2 steps, 1 to 2: ok" in result.stdout


def test_texts_name_options(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {1: {"model.w": [1.0], "optimizer.exp_avg.w": [1.0]}})
    result = run("trend", str(folder / "step_1.safetensors"))
    assert result.returncode == 2
    assert "--section" in error_lines(result)[0]


def test_what_is_kept_is_told_and_dropped(folder: str, tmp_path: Path) -> None:
    os.utime(folder)
    env = {"XDG_CACHE_HOME": str(tmp_path / "caches")}
    assert "no rows" in run("cache", "info", env=env).stdout
    run("trend", folder, env=env)
    store = tmp_path / "caches" / "gradtool" / "rows.sqlite"
    connection = sqlite3.connect(store)
    with connection:
        connection.execute(
            "INSERT INTO dumps (key, catalogue, content) VALUES (x'00', x'00', x'00')"
        )
    connection.close()
    assert f"{store}: 1 dump, " in run("cache", "info", env=env).stdout
    assert run("cache", "clear", env=env).stdout == f"{store}: rows of 1 dump dropped\n"
    assert run("cache", "info", env=env).stdout.startswith(f"{store}: 0 dumps, ")
    run("trend", folder, "--no-cache", env={"XDG_CACHE_HOME": str(tmp_path / "none")})
    assert not (tmp_path / "none").exists()


def test_a_file_that_is_no_store_is_left_alone(folder: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("precious")
    result = run("trend", folder, "--cache", str(mine))
    assert result.returncode == 1
    assert "no rows are kept" in result.stdout
    for command in ("info", "clear"):
        assert run("cache", command, "--cache", str(mine)).returncode == 3
    assert mine.read_text() == "precious"


def test_what_is_the_same_of_many_steps_is_said_once(tmp_path: Path) -> None:
    steps = {n: STEPS[1 if n < 4 else 3] for n in range(1, 10)}
    folder = str(write_run(tmp_path / "run", steps))
    said = f"step 4 ({folder}/step_4.safetensors) and 5 more steps, the last of them step 9"
    text = run("trend", folder).stdout
    assert said in text
    assert text.count("error GT101") == 1
    assert run("trend", folder, "--all").stdout.count("error GT101") == 6
