"""The README is true: its commands print what it shows, and CI runs its test command.

    python tests/cli/test_readme.py

writes the commands' output of today into it.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

import gradtool

sys.path.insert(0, str(Path(__file__).parents[1]))

from environment import PLAIN

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
SESSION = re.compile(r"(```console\n\$ gradtool ([^\n]*)\n)(.*?)(```)", re.DOTALL)
EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def output_of(arguments: str) -> str:
    """What the command prints, without colours, where it can reach the samples and write."""
    environment = {**PLAIN, "COLUMNS": "100", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "gradtool", *shlex.split(arguments)]
    with tempfile.TemporaryDirectory() as directory:
        for shown in ("sample_ckpts", "tests"):
            (Path(directory) / shown).symlink_to(ROOT / shown)
        run = subprocess.run(
            command,
            cwd=directory,
            env=environment,
            capture_output=True,
            check=False,
            encoding="utf-8",
        )
    # A verdict is a result too, whatever it is, and so is a list of several checkpoints.
    assert run.returncode == 0 or (
        run.returncode in (1, 3)
        if arguments.startswith(("check ", "diff "))
        else run.returncode == 2
    )
    return run.stdout


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [(m[2], m[3]) for m in SESSION.finditer(README.read_text(encoding="utf-8"))],
)
def test_a_command_prints_what_the_readme_shows(arguments: str, shown: str) -> None:
    assert output_of(arguments) == shown


def test_the_readme_shows_sessions() -> None:
    assert len(SESSION.findall(README.read_text(encoding="utf-8"))) >= 3


def python(example: str, directory: Path) -> str:
    """What an example prints."""
    command = [sys.executable, "-c", example]
    options: dict[str, Any] = {"env": PLAIN, "capture_output": True, "encoding": "utf-8"}
    return subprocess.run(command, cwd=directory, check=True, **options).stdout


def test_the_examples_in_python_run(tmp_path: Path) -> None:
    dumping, measuring = EXAMPLE.findall(README.read_text(encoding="utf-8"))
    assert python(measuring, ROOT).startswith("0.566008473864")
    assert python(dumping, tmp_path) == ""
    outcome = gradtool.check(tmp_path / "grads")
    assert [verdict.step for verdict in outcome.verdicts] == [2, 4]
    assert outcome


def test_the_readme_has_one_test_command_for_ci_to_run() -> None:
    commands = [
        line
        for line in README.read_text(encoding="utf-8").splitlines()
        if line.endswith("-m pytest")
    ]
    assert len(commands) == 1
    assert commands[0].startswith("python3 -m venv .venv && ")
    assert "grep -- '-m pytest$' README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_oldest_dependencies_are_those_that_the_package_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = (ROOT / ".ci" / "oldest.txt").read_text(encoding="utf-8").split()
    lowest = [wanted.partition(",")[0].replace(">=", "==") for wanted in project["dependencies"]]
    assert [re.sub(r"\.0$", "", pin) for pin in oldest] == lowest


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    README.write_text(SESSION.sub(lambda m: m[1] + output_of(m[2]) + m[4], text), encoding="utf-8")
