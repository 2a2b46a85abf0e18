"""The page on comparing dumps is true: its examples run and print what it shows.

    python tests/docs/test_diff.py

writes what commands print today into the page.
"""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from environment import PLAIN

import gradtool
from docs.pages import BLOCK, example, run

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "diff.md"
SESSION = re.compile(r"(```console\n\$ gradtool ([^\n]*)\n)(.*?)(```)", re.DOTALL)


def prepare(directory: Path) -> None:
    for name in ("train.py", "fuse.py", "compare.py"):
        (directory / name).write_text(example(PAGE, "python", name))
    for name in ("train.py", "fuse.py"):
        made = run([sys.executable, name], directory)
        assert made.returncode == 0, made.stderr


def outputs(page: str, directory: Path) -> Iterator[str]:
    """What the commands of the page print, where its files are written as they come."""
    prepare(directory)
    for kind, text in BLOCK.findall(page):
        if kind == "toml":
            (directory / "pyproject.toml").write_text(text)
        elif kind == "console":
            command = text.partition("\n")[0].removeprefix("$ gradtool ")
            done = run([sys.executable, "-m", "gradtool", *shlex.split(command)], directory)
            assert (done.returncode in (0, 1), done.stderr) == (True, ""), command
            yield done.stdout


def test_commands_print_what_the_page_shows(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    shown = [found[2] for found in SESSION.findall(page)]
    assert len(shown) == page.count("```console") >= 5
    assert list(outputs(page, tmp_path)) == shown


def test_the_configuration_is_toml_and_python_reads_it_alike(tmp_path: Path) -> None:
    text = example(PAGE, "toml", "pyproject.toml")
    tables = tomllib.loads(text)["tool"]["gradtool"]["diff"]["tolerance"]
    prepare(tmp_path)
    (tmp_path / "pyproject.toml").write_text(text)
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    assert not gradtool.diff(one, two)
    assert gradtool.diff(one, two, tolerances=tables)
    assert gradtool.diff(one, two, config=tmp_path / "pyproject.toml")


def test_the_example_in_python_prints_what_it_should(tmp_path: Path) -> None:
    prepare(tmp_path)
    done = run([sys.executable, "compare.py"], tmp_path)
    assert done.stdout == "False layers.2.attn.weight\nTrue\n", done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("one.npz one.npz", 0),
        ("one.npz two.npz", 1),
        ("dead.npz dead.npz", 1),
        ("one.npz two.npz --max-rel-l2 -1", 2),
        ("one.npz foreign.npz", 2),
        ("one.npz cut.npz", 3),
    ],
)
def test_the_exit_codes_are_those_of_the_page(arguments: str, code: int, tmp_path: Path) -> None:
    prepare(tmp_path)
    np.savez(tmp_path / "dead.npz", w=np.zeros(3, np.float32))
    np.savez(tmp_path / "foreign.npz", w=np.ones(3, np.float32))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "one.npz").read_bytes()[:700])
    command = [sys.executable, "-m", "gradtool", "diff", *arguments.split()]
    for form in ("table", "json", "github"):
        assert run([*command, "-f", form], tmp_path).returncode == code
    assert f"| {code} |" in PAGE.read_text(encoding="utf-8")


def test_git_shows_which_tensors_changed(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    script = programs / "gradtool"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gradtool "$@"\n')
    script.chmod(0o755)
    clone = tmp_path / "clone"
    clone.mkdir()
    prepare(clone)
    who = ("AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL")
    environment = {
        "PATH": f"{programs}:{PLAIN['PATH']}",
        "HOME": str(tmp_path),
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{name}": "a@b" for name in who},
    }

    def git(*words: str) -> str:
        done = run(["git", *words], clone, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    git("init", "-q")
    (clone / ".gitattributes").write_text(example(PAGE, "gitattributes", ".gitattributes"))
    (clone / "one.npz").rename(clone / "grads.npz")
    git("add", ".gitattributes", "grads.npz")
    git("commit", "-qm", "the first run")
    (clone / "two.npz").rename(clone / "grads.npz")
    assert "Binary files" in git("diff")
    (_, *commands) = example(PAGE, "sh", "git config").splitlines()
    for command in commands:
        git(*shlex.split(command)[1:])
    changed = [line for line in git("diff").splitlines() if line.startswith(("-|", "+|"))]
    names = {line.split("`")[1] for line in changed}
    kinds = ("attn", "mlp", "norm")
    upper = {f"layers.{layer}.{kind}.weight" for layer in (2, 3) for kind in kinds}
    assert names == {*upper, "head.weight"}
    assert len(changed) == 2 * len(names)


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        printed = outputs(text, Path(folder))
        PAGE.write_text(SESSION.sub(lambda m: m[1] + next(printed) + m[4], text), encoding="utf-8")
