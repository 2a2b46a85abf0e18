"""The page on training loops is true: its examples print what it shows, and its list is torch's.

    python tests/docs/test_training.py

writes what examples and commands print today into the page, and the list of differences from
the documentation of `gradtool.torch`. What needs a
framework that is not installed stays as it is.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from environment import PLAIN

from docs.pages import assert_shown

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "training.md"
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
LIST = re.compile(r"(no\s+others:\n\n)(.*?)(?=\n\n)", re.DOTALL)
SECONDS = 120.0
FRAMEWORKS = {"accelerate", "lightning", "transformers"}


class Example(NamedTuple):
    """A script, and what is shown of its run: commands and their output, the script's first.

    Of a script the output may not be shown, None: frameworks have words of their own.
    """

    script: str
    sessions: list[tuple[str, str | None]]

    @property
    def file(self) -> str:
        return self.sessions[0][0].split()[-1]

    @property
    def missing(self) -> list[str]:
        """The frameworks that it needs and that are not here; `.ci/run --full` has them all."""
        imported = re.findall(r"^(?:from|import) (\w+)", self.script, re.MULTILINE)
        return [name for name in imported if name in FRAMEWORKS and find_spec(name) is None]


def examples(page: str) -> list[Example]:
    """The page's examples; the first line of each is the command that runs it."""
    found: list[Example] = []
    for kind, text in BLOCK.findall(page):
        if kind == "python":
            found.append(Example(text, [(text.splitlines()[0].removeprefix("# "), None)]))
        elif kind == "text":
            ((command, _),) = found[-1].sessions
            found[-1].sessions[:] = [(command, text)]
        elif kind == "console":
            command, shown = text.removeprefix("$ ").split("\n", 1)
            found[-1].sessions.append((command, shown))
    return found


def program(command: str) -> list[str]:
    """The command as this environment runs it."""
    modules = {"gradtool": "gradtool", "torchrun": "torch.distributed.run"}
    name, *arguments = shlex.split(command)
    if name in modules:
        arguments = ["-m", modules[name], *arguments]
    return [sys.executable, *arguments]


def output_of(command: str, directory: Path) -> str:
    """What the command prints in `directory`; it, and all that it starts, ends in time."""
    environment = {
        **PLAIN,
        "PYTHONWARNINGS": "error::UserWarning",
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
    }
    process = subprocess.Popen(
        program(command),
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        encoding="utf-8",
    )
    try:
        printed, errors = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun then ends its ranks
        try:
            process.communicate(timeout=40.0)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        pytest.fail(f"{command}: not done after {SECONDS} s")
    # A verdict is a result too, whatever it is, and so is a list of several checkpoints.
    results = {"gradtool check": (0, 1), "gradtool inspect": (0, 2), "gradtool trend": (0, 1)}
    allowed = results.get(" ".join(command.split()[:2]), (0,))
    assert process.returncode in allowed, f"{command}:\n{errors}"
    return printed


def outputs_of(example: Example, directory: Path) -> list[str]:
    """What each command prints, one after the other in one directory."""
    (directory / example.file).write_text(example.script)
    return [output_of(command, directory) for command, _ in example.sessions]


def differences(text: str) -> list[str]:
    found = LIST.search(text)
    assert found is not None
    return [" ".join(item.split()) for item in found[2].removeprefix("- ").split("\n- ")]


@pytest.mark.parametrize(
    "example", [pytest.param(e, id=e.file) for e in examples(PAGE.read_text(encoding="utf-8"))]
)
def test_an_example_prints_what_the_page_shows(example: Example, tmp_path: Path) -> None:
    if example.missing:
        pytest.skip(f"not installed: {', '.join(example.missing)}")
    printed = outputs_of(example, tmp_path)
    compared = [each for each in zip(printed, example.sessions, strict=True) if each[1][1]]
    assert compared
    for output, (_, shown) in compared:
        assert_shown(output, shown or "")


def test_the_page_has_a_plain_loop_a_scaled_one_and_a_sharded_one() -> None:
    files = [example.file for example in examples(PAGE.read_text(encoding="utf-8"))]
    assert files[:3] == ["plain.py", "accumulation.py", "fsdp2.py"]
    assert len(files) == len(set(files))


def test_the_page_has_dumps_in_a_plain_loop_and_in_each_framework() -> None:
    files = [example.file for example in examples(PAGE.read_text(encoding="utf-8"))]
    frameworks = [f"with_{name}.py" for name in ("trainer", "lightning", "accelerate")]
    assert files[3:7] == ["watched.py", *frameworks]


@pytest.mark.parametrize(
    ("printed", "shown"),
    [("norm 2.65", "norm 2.75"), ("12 -Inf", "13 -Inf"), ("'embed'", "'head'"), ("1.5\n", "nan\n")],
)
def test_what_is_not_the_same_is_not_taken_for_it(printed: str, shown: str) -> None:
    assert_shown(printed, printed)
    with pytest.raises(AssertionError):
        assert_shown(printed, shown)


def test_the_differences_from_torch_are_those_that_the_package_lists() -> None:
    import gradtool.torch  # noqa: PLC0415 - the script below needs none

    documented = differences(gradtool.torch.__doc__ or "")
    assert len(documented) >= 10
    assert differences(PAGE.read_text(encoding="utf-8")) == documented


def rewrite() -> None:
    """The page with the output of today."""
    import gradtool.torch  # noqa: PLC0415 - as above

    page = PAGE.read_text(encoding="utf-8")
    printed: list[str] = []
    for example in examples(page):
        if example.missing:
            printed.extend(shown for _, shown in example.sessions if shown is not None)
            continue
        with tempfile.TemporaryDirectory() as directory:
            outputs = outputs_of(example, Path(directory))
        pairs = zip(outputs, example.sessions, strict=True)
        printed.extend(output for output, (_, shown) in pairs if shown is not None)
    blocks = iter(printed)

    def block(found: re.Match[str]) -> str:
        kind, text = found.groups()
        if kind not in ("text", "console"):
            return found[0]
        command = text.split("\n", 1)[0] + "\n" if kind == "console" else ""
        return f"```{kind}\n{command}{next(blocks)}```"

    page = BLOCK.sub(block, page)
    listed = LIST.search(gradtool.torch.__doc__ or "")
    assert listed is not None
    PAGE.write_text(LIST.sub(lambda found: found[1] + listed[2], page), encoding="utf-8")


if __name__ == "__main__":
    rewrite()
