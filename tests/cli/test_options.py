"""Options that commands share: said once, the same everywhere; reports go where they were asked."""

from __future__ import annotations

import ast
import json
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import error_lines, run
from safetensors.numpy import load_file, save_file
from typer.main import get_command

import gradtool.cli
from gradtool.cli.app import COMMANDS as MODULES
from gradtool.cli.app import app
from gradtool.cli.spelling import OPTIONS
from gradtool.request import MeasureOptions

REPORTING = {
    "inspect": ("inspect", ["table", "json", "csv", "markdown"]),
    "clip": ("clip --max-norm 1 --dry-run", ["table", "json"]),
    "check": ("check", ["text", "json", "junit", "github", "markdown"]),
}
"""Those that report on a dump."""
COMMANDS = [(words, name) for words, names in REPORTING.values() for name in names]


@pytest.fixture
def dump(tmp_path: Path) -> str:
    save_file({"w": np.float32([3.0, 4.0])}, str(tmp_path / "grads.safetensors"))
    return "grads.safetensors"


def test_a_shared_option_is_a_parameter_of_one_function_at_most() -> None:
    for module_name in MODULES.values():  # each of which notes its options
        import_module(module_name)
    assert len(OPTIONS) > 30
    parameters = Counter(
        argument.arg
        for module in Path(gradtool.cli.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.Lambda)
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    )
    assert {name: n for name, n in parameters.items() if n > 1 and name in OPTIONS} == {}


def options_of(*path: str) -> dict[str, tuple[list[str], object, str | None]]:
    """Of a command: spellings, default and help by parameter."""
    found: Any = get_command(app)
    for name in path:
        found = found.get_command(None, name)
    return {one.name: (one.opts, one.default, getattr(one, "help", None)) for one in found.params}


def test_commands_that_measure_take_all_that_measuring_takes_and_call_it_the_same() -> None:
    measured = MeasureOptions.__annotations__.keys() - {"progress"}
    inspect, save = options_of("inspect"), options_of("baseline", "save")
    assert measured <= inspect.keys()
    clip = options_of("clip")
    assert "apply_scales" not in clip  # it changes elements as they are stored
    for other, names in (
        (clip, measured - {"apply_scales"}),
        (options_of("check"), measured),
        (save, measured),
    ):
        assert {name: inspect[name] for name in names} == {name: other[name] for name in names}
    update = options_of("baseline", "update")
    assert save.keys() - update.keys() == {"norm_type", "out", "force"}


@pytest.mark.parametrize("command", REPORTING)
def test_reports_in_several_formats_each_go_to_their_place(
    command: str, dump: str, tmp_path: Path
) -> None:
    words, (first, *others) = REPORTING[command]
    places = [word for name in others for word in ("-f", f"{name}:report.{name}")]
    result = run(*words.split(), dump, "-f", first, *places, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    alone = {name: run(*words.split(), dump, "-f", name, cwd=tmp_path).stdout for name in others}
    assert result.stdout == run(*words.split(), dump, cwd=tmp_path).stdout
    for name, text in alone.items():
        written = (tmp_path / f"report.{name}").read_text("utf-8")
        assert len(written.splitlines()) == len(text.splitlines())
        assert written.splitlines()[0] == text.splitlines()[0]
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert report["schema"] == f"gradtool.{command}/1"


@pytest.mark.parametrize(("words", "name"), COMMANDS)
def test_a_report_in_a_file_is_plain_and_leaves_stdout_alone(
    words: str, name: str, dump: str, tmp_path: Path
) -> None:
    arguments = [*words.split(), dump, "-f", f"{name}:report", "--color", "always"]
    result = run(*arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert "\x1b" not in (tmp_path / "report").read_text("utf-8") != ""


@pytest.mark.parametrize("words", [words for words, _ in REPORTING.values()])
def test_text_and_table_are_one_word(words: str, dump: str, tmp_path: Path) -> None:
    said = [run(*words.split(), dump, "-f", name, cwd=tmp_path) for name in ("text", "table")]
    assert [one.returncode for one in said] == [0, 0]
    assert said[0].stdout == said[1].stdout == run(*words.split(), dump, cwd=tmp_path).stdout != ""


@pytest.mark.parametrize("command", ["inspect", "check"])
def test_o_is_the_file_of_the_only_format(command: str, dump: str, tmp_path: Path) -> None:
    for way in (["-f", "json", "-o", "a"], ["-f", "json:b"], ["-o", "c"], ["-o", "-"]):
        result = run(command, dump, *way, cwd=tmp_path)
        assert (result.returncode, bool(result.stdout)) == (0, way[-1] == "-")
    one, other = (json.loads((tmp_path / name).read_text("utf-8")) for name in "ab")
    assert one["schema"] == other["schema"] == f"gradtool.{command}/1"
    assert (tmp_path / "c").read_text("utf-8") == run(command, dump, cwd=tmp_path).stdout


@pytest.mark.parametrize("words", [words for words, _ in REPORTING.values()])
@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("-f json -f table", "both go to stdout"),
        ("-f json:a -f table:./a", "both go to a"),
        ("-f json:", "no file after the colon"),
        ("-f xml", "give one of"),
        ("-f xml:a", "give one of"),
        ("-f json:grads.safetensors", "is one of the files to read"),
    ],
)
def test_reports_that_have_no_place_of_their_own_are_refused(
    words: str, way: str, said: str, dump: str, tmp_path: Path
) -> None:
    result = run(*words.split(), dump, *way.split(), cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = error_lines(result)
    assert said in line
    assert {path.name for path in tmp_path.iterdir()} == {dump}


@pytest.mark.parametrize("command", ["inspect", "check"])
@pytest.mark.parametrize("way", ["-f json:a -o b", "-f json -f csv:a -o b", "-f text -f json -o b"])
def test_o_beside_other_files_is_refused(command: str, way: str, dump: str, tmp_path: Path) -> None:
    result = run(command, dump, *way.replace("csv", "markdown").split(), cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert "only format" in error_lines(result)[0]
    assert {path.name for path in tmp_path.iterdir()} == {dump}


@pytest.mark.parametrize("report", ["out", "./out", "out/report.json"])
def test_clip_reports_into_nothing_that_it_writes(report: str, dump: str, tmp_path: Path) -> None:
    arguments = ["clip", dump, "--max-norm", "1", "-o", "out", "-f", f"json:{report}"]
    result = run(*arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert {path.name for path in tmp_path.iterdir()} == {dump}


def test_clip_reports_to_a_file_what_it_wrote_to_another(dump: str, tmp_path: Path) -> None:
    arguments = ["clip", dump, "--max-norm", "1", "--eps", "0", "-o", "out", "-f", "json:out.json"]
    result = run(*arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert json.loads((tmp_path / "out.json").read_text("utf-8"))["output"] == "out"
    assert load_file(tmp_path / "out")["w"].tolist() == np.float32([0.6, 0.8]).tolist()


def test_a_report_that_cannot_be_written_leaves_the_others(dump: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    result = run("inspect", dump, "-f", "json:folder", "-f", "csv:b", "-f", "table", cwd=tmp_path)
    assert result.returncode == 3
    assert "cannot be written" in error_lines(result)[0]
    assert result.stdout == run("inspect", dump, cwd=tmp_path).stdout
    assert (tmp_path / "b").read_text("utf-8").startswith("path,")


def test_shells_complete_formats() -> None:
    environment = {
        "_GRADTOOL_COMPLETE": "complete_bash",
        "COMP_WORDS": "gradtool check -f j",
        "COMP_CWORD": "3",
    }
    assert run(env=environment).stdout.split() == ["json", "junit"]
