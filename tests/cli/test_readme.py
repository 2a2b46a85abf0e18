"""The README is true: its commands print what it shows, and CI runs its test command.

    python tests/cli/test_readme.py

writes the commands' output of today into it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
SESSION = re.compile(r"(```console\n\$ gradtool ([^\n]*)\n)(.*?)(```)", re.DOTALL)
EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def output_of(arguments: str) -> str:
    """What the command prints on a terminal of 100 columns without colours."""
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "gradtool", *shlex.split(arguments)]
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, check=True, text=True
    )
    return run.stdout


@pytest.mark.parametrize(
    ("arguments", "shown"), [(m[2], m[3]) for m in SESSION.finditer(README.read_text())]
)
def test_a_command_prints_what_the_readme_shows(arguments: str, shown: str) -> None:
    assert output_of(arguments) == shown


def test_the_readme_shows_sessions() -> None:
    assert len(SESSION.findall(README.read_text())) >= 3


def test_the_example_in_python_runs() -> None:
    (example,) = EXAMPLE.findall(README.read_text())
    run = subprocess.run(
        [sys.executable, "-c", example], cwd=ROOT, capture_output=True, check=True, text=True
    )
    assert run.stdout.startswith("0.566008473864")


def test_ci_runs_the_readmes_test_command() -> None:
    (command,) = (line for line in README.read_text().splitlines() if line.endswith("-m pytest"))
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


if __name__ == "__main__":
    text = README.read_text()
    README.write_text(SESSION.sub(lambda m: m[1] + output_of(m[2]) + m[4], text))
