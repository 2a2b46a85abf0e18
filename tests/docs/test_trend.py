"""The page on following runs is true: its runs are trained, and commands print what it shows.

    python tests/docs/test_trend.py

writes what commands print today into the page.
"""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import gradtool
from docs.pages import assert_shown, example, run

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "trend.md"
SESSION = re.compile(r"(```console\n\$ gradtool ([^\n]*)\n)(.*?)(```)", re.DOTALL)
PRINTED = re.compile(r"(```text\n)(.*?)(```)", re.DOTALL)
SCRIPTS = ("notify.py", "record.py", "look.py")


def prepare(directory: Path) -> None:
    """The runs of the page, and its scripts."""
    maker = ROOT / "tests" / "docs" / "training_runs.py"
    made = run([sys.executable, str(maker), "."], directory)
    assert made.returncode == 0, made.stderr
    for name in SCRIPTS:
        (directory / name).write_text(example(PAGE, "python", name), encoding="utf-8")


def gradtool_in(directory: Path, arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command of the page."""
    command = [sys.executable, "-m", "gradtool", *shlex.split(arguments)]
    home = {"XDG_CACHE_HOME": str(directory / "cache"), "HOME": str(directory)}
    done = run(command, directory, **home)
    return done.returncode, done.stdout, done.stderr


def outputs(page: str, directory: Path) -> Iterator[str]:
    """What its commands print, one after the other."""
    for found in SESSION.finditer(page):
        code, printed, errors = gradtool_in(directory, found[2])
        assert (code in (0, 1), errors) == (True, ""), found[2]
        yield printed


def looked(directory: Path) -> str:
    done = run([sys.executable, "look.py"], directory)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    prepare(folder)
    return folder


def test_commands_print_what_the_page_shows(runs: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    shown = [found[3] for found in SESSION.finditer(page)]
    assert len(shown) == page.count("```console") >= 8
    for printed, expected in zip(outputs(page, runs), shown, strict=True):
        assert_shown(printed, expected)


def test_the_example_in_python_prints_what_it_should(runs: Path) -> None:
    (shown,) = PRINTED.finditer(PAGE.read_text(encoding="utf-8"))
    assert_shown(looked(runs), shown[2])


def test_a_recorder_as_the_page_has_it_records_a_run(runs: Path) -> None:
    done = run([sys.executable, "record.py"], runs)
    assert (done.returncode, done.stderr) == (0, "")
    (recorded,) = gradtool.trend(runs / "run.rows").runs
    assert [step.number for step in recorded.steps] == [*range(1, 51)]


def test_the_command_of_the_page_gets_the_finding(runs: Path) -> None:
    assert "--follow --on-finding 'python notify.py'" in PAGE.read_text(encoding="utf-8")
    command = shlex.quote(f"{shlex.quote(sys.executable)} notify.py")
    arguments = f"trend overflow --follow --fail-fast --on-finding {command}"
    code, _, told = gradtool_in(runs, arguments)
    assert (code, told) == (1, "step 17 GT102 inf\n")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("healthy", 0),
        ("overflow --max-consecutive-nonfinite 1", 0),
        ("overflow --max-consecutive-nonfinite 1 --fail-on warning", 1),
        ("dying", 1),
        ("healthy --log notify.py", 3),
        ("healthy --log healthy.jsonl --log-key loss", 2),
        ("healthy healthy.jsonl", 3),
    ],
)
def test_the_exit_codes_are_those_of_the_page(runs: Path, arguments: str, code: int) -> None:
    assert gradtool_in(runs, f"trend {arguments}")[0] == code
    assert f"| {code} |" in PAGE.read_text(encoding="utf-8")


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as made:
        prepare(Path(made))
        printed = outputs(text, Path(made))
        text = SESSION.sub(lambda m: m[1] + next(printed) + m[4], text)
        text = PRINTED.sub(lambda m: m[1] + looked(Path(made)) + m[3], text)
    PAGE.write_text(text, encoding="utf-8")
