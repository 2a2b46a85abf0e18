"""The library speaks of arguments, the command line of options, and both of the same."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import error_lines, run
from safetensors.numpy import save_file
from typer.main import get_command

import gradtool
from gradtool.cli.app import COMMANDS, app
from gradtool.cli.spelling import OPTIONS, THRESHOLDS, with_options
from gradtool.rules import RULES

for command_module in COMMANDS.values():  # each of which notes its options
    import_module(command_module)

PACKAGE = Path(gradtool.__file__).parent
LIBRARY = [
    module
    for module in sorted(PACKAGE.rglob("*.py"))
    if module.relative_to(PACKAGE).parts[0] not in ("cli", "integrations", "report", "torch")
]
"""What the command line calls: reports are its own, gradtool.torch has torch's words, and hooks
those of whoever trains.
"""
NOT_OURS = {"pip install --force-reinstall"}
COMMAND = re.compile(r"`gradtool [^`]*`")
SPOKEN = re.compile(r"`((?:GT\d{3}\.)?[a-z_]+)(?:=[^`]*)?`")
OTHERS = {"main_grad"}
"""Names that are of no argument of gradtool's own."""


def texts(module: Path) -> Iterator[str]:
    """All strings of a module but docstrings, with a 0 for what is filled in."""
    tree = ast.parse(module.read_text("utf-8"))
    nodes = list(ast.walk(tree))
    parts = {part for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "0" for part in node.values
            )
        elif isinstance(node, ast.Constant) and node not in parts | docstrings:
            yield node.value if isinstance(node.value, str) else ""


SAID = [(str(module.relative_to(PACKAGE)), text) for module in LIBRARY for text in texts(module)]


def options() -> set[str]:
    """All that the commands take."""
    found: set[str] = set()
    commands: list[Any] = [get_command(app)]
    while commands:
        command = commands.pop()
        if hasattr(command, "list_commands"):
            commands.extend(command.get_command(None, name) for name in command.list_commands(None))
        found.update(spelling for one in command.params for spelling in one.opts)
    return found


def test_there_are_texts_to_look_at() -> None:
    assert len([text for _, text in SAID if " " in text]) > 500
    assert len([text for _, text in SAID if SPOKEN.search(text)]) > 50


def test_no_text_of_the_library_speaks_of_an_option() -> None:
    found = [
        (where, text)
        for where, text in SAID
        if re.search(r"(?<![\w-])--[a-z]", COMMAND.sub("", text))
        and not any(words in text for words in NOT_OURS)
    ]
    assert found == []


def test_every_argument_that_a_text_names_becomes_an_option_that_there_is() -> None:
    known = options()
    for where, text in SAID:
        named = {name for name in SPOKEN.findall(text) if name not in OTHERS}
        assert named <= OPTIONS.keys() | THRESHOLDS.keys(), (where, text)
        shown = with_options(text)
        assert set(SPOKEN.findall(shown)) <= OTHERS
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", COMMAND.sub("", shown)):
            assert option in known | {"--force-reinstall"}, (where, shown)


@pytest.mark.parametrize(
    "text", ["'`norm_type`' before", "`norm_type`: no such file", "in/`norm_type` is empty"]
)
def test_words_out_of_files_and_paths_stay_what_they_are(text: str) -> None:
    options()  # which notes all of them
    assert with_options(text) == text
    assert with_options(f"{text}; give `norm_type`") == f"{text}; give --norm-type"


def test_thresholds_with_an_option_of_their_own_are_thresholds() -> None:
    for key, parameter in THRESHOLDS.items():
        code, _, name = key.partition(".")
        assert RULES[code].parameter(name) is not None
        assert parameter in OPTIONS


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("give `max_norm`", "give --max-norm"),
        ("`force=True` overwrites it", "--force overwrites it"),
        ("`nonfinite='zero'` or `backend=\"numpy\"`", "--nonfinite zero or --backend numpy"),
        ("give `norm_type=inf`", "give --norm-type inf"),
        ("`out` and `in_place`", "--output and --in-place"),
        ("`thresholds` GT9.x", "--set GT9.x"),
        ("needs `GT401.norm`, as `GT401.norm=9.01`", "needs --expect-norm, as --expect-norm 9.01"),
        ("run/max_norm=1/x: `main_grad`", "run/max_norm=1/x: `main_grad`"),
        ("`gradtool check` says more of `GT203.max_norm`", None),
        ("max_norm, force=True and 'section'", None),
    ],
)
def test_only_what_is_marked_is_an_argument(text: str, shown: str | None) -> None:
    assert with_options(text) == (text if shown is None else shown)


def alone(*args: str) -> subprocess.CompletedProcess[str]:
    """gradtool in a process that has loaded nothing but what the command needs."""
    return run(*args, env={"PYTHONDONTWRITEBYTECODE": "1"})


def test_python_and_the_command_line_are_each_told_in_their_own_words(tmp_path: Path) -> None:
    folder = tmp_path / "max_norm=1,force=True"
    folder.mkdir()
    path, out = str(folder / "a.safetensors"), str(folder / "out")
    save_file({"w": np.float32([np.nan])}, path)
    Path(out).touch()
    with pytest.raises(gradtool.UsageError) as there:
        gradtool.clip(path, out, max_norm=1)
    (line,) = error_lines(alone("clip", path, "-o", out, "--max-norm", "1"))
    assert str(there.value) == f"{out} exists; `force=True` overwrites it"
    assert line == f"gradtool: error: {out} exists; --force overwrites it"
    with pytest.raises(gradtool.NonFiniteError, match="`nonfinite='keep'` leaves them"):
        gradtool.clip(path, dry_run=True, max_norm=1)
    (line,) = error_lines(alone("clip", path, "--dry-run", "--max-norm", "1"))
    assert line.endswith("--nonfinite zero replaces them by 0, --nonfinite keep leaves them")


def test_findings_are_told_in_the_words_of_who_asked(tmp_path: Path) -> None:
    path = str(tmp_path / "weights.safetensors")
    save_file({"grads.w": np.int64([1]), "loss": np.float32([1.0])}, path)
    (verdict,) = gradtool.check(path).verdicts
    (finding,) = verdict.findings
    assert "choose with `section` what to judge" in finding.message
    for name in ("text", "json", "junit", "markdown", "github"):
        result = alone("check", path, "-f", name)
        assert "choose with --section what to judge" in result.stdout
        if name in ("json", "junit", "github"):  # of which nobody reads stdout
            assert "choose with --section what to judge" in error_lines(result)[0]
        else:
            assert result.stderr == ""
    assert "--section" in alone("explain", finding.code).stdout


def test_every_rule_is_explained_in_the_command_line_s_words() -> None:
    explained = alone("explain", *RULES)
    assert (explained.returncode, SPOKEN.findall(explained.stdout)) == (0, [])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("clip {} --group w*=-1 --dry-run", "--group 'w*' must be at least 0, not -1.0"),
        ("clip {} --group w*=nan --dry-run", "--group 'w*' must be at least 0, not nan"),
        ("check {} --expect-norm nan", "'--expect-norm': nan is no norm"),
        ("check {} --min-tensors -1", "'--min-tensors': -1 is not in the range"),
        ("check {} --max-consecutive-nonfinite -1", "-nonfinite': -1 is not in the range"),
        ("inspect {} --rows wieght", "--rows 'wieght' matches no tensor with two axes or more"),
        ("inspect {} --rows wieght", "the nearest name is 'weight'"),
        ("inspect {} --rows bias", "the nearest name is 'weight'"),
    ],
)
def test_an_error_is_about_what_was_typed(words: str, told: str, tmp_path: Path) -> None:
    dump = tmp_path / "g.safetensors"
    save_file({"weight": np.ones((2, 2)), "bias": np.ones(2)}, dump)
    result = run(*words.format(dump).split())
    assert result.returncode == 2
    assert told in error_lines(result)[0]


def test_what_is_expected_to_be_0_and_is_not_there_is_told_with_the_nearest_names() -> None:
    tree = {"x[0]": np.ones(2), "bias": np.ones(2)}
    (finding,) = gradtool.check(tree, thresholds={"GT410.names": ["x[0]"]}).all_findings
    assert "no tensor is called 'x'; the nearest names are 'x[0]'" in finding.message


def test_groups_that_are_none_are_told_in_the_words_of_python(tmp_path: Path) -> None:
    save_file({"w": np.ones(2)}, tmp_path / "g.safetensors")
    for groups in ([("w", 1)], {}, {1: 2}, "w=1"):
        with pytest.raises(gradtool.UsageError, match=r"a dict of globs and bounds, as \{'layers"):
            gradtool.clip(tmp_path / "g.safetensors", dry_run=True, groups=groups)  # type: ignore[arg-type]


def test_a_keyword_that_nothing_takes_is_told_as_python_does(tmp_path: Path) -> None:
    dump = tmp_path / "g.safetensors"
    save_file({"w": np.ones(2)}, dump)
    calls: list[Any] = [gradtool.check, gradtool.clip, gradtool.assert_healthy]
    for call in calls:
        for wrong, meant in (("inclde", "; did you mean include?"), ("qwertz", "")):
            with pytest.raises(TypeError) as caught:
                call(dump, **{wrong: "w"})
            told = f"got an unexpected keyword argument {wrong!r}{meant}"
            assert str(caught.value) == told


def test_a_test_suite_is_told_nothing_of_options() -> None:
    tree = {name: np.float32([np.nan, 1.0]) for name in "abcdefgh"}
    tree |= {f"{name}1": np.ones(2, np.float32) for name in "abcdefgh"}
    with pytest.raises(AssertionError) as caught:
        gradtool.assert_healthy(tree, thresholds={"GT007.names": list("jklmnopq")})
    assert "3 more of GT007" in str(caught.value)
    assert "--all" not in str(caught.value)


def test_what_is_no_source_is_told_what_one_is() -> None:
    with pytest.raises(gradtool.UsageError, match="give a path, several paths, a module, or"):
        gradtool.measure(3)
