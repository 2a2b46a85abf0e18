"""The page on CI is true: its examples run and print what it shows, or are what their readers read.

    python tests/docs/test_ci.py

writes what the commands print today into the page.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from ruamel.yaml import YAML

from docs.pages import BLOCK, example, run
from gradtool.core.judging.rule import FAMILIES
from gradtool.rules import RULES
from gradtool.rules.config_file import load_config

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "ci.md"


def yaml(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def gradtool(arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-m", "gradtool", *shlex.split(arguments)], directory)


def train(directory: Path) -> None:
    (directory / "train.py").write_text(example(PAGE, "python", "train.py"))
    made = run([sys.executable, "train.py"], directory)
    assert made.returncode == 0, made.stderr


def sessions(page: str) -> list[tuple[str, str]]:
    """Commands and what is shown of their output."""
    found = (text.partition("\n") for kind, text in BLOCK.findall(page) if kind == "console")
    return [(command.removeprefix("$ gradtool "), shown) for command, _, shown in found]


def outputs(page: str, directory: Path) -> Iterator[str]:
    """What the commands of the page print, one after the other in one directory."""
    train(directory)
    for arguments, _ in sessions(page):
        done = gradtool(arguments, directory)
        assert done.returncode == (1 if " failed" in done.stdout else 0), done.stderr
        yield done.stdout


def program(directory: Path) -> Path:
    """A directory with `gradtool` in it as an installation has it, but for where the code is."""
    directory.mkdir(parents=True)
    script = directory / "gradtool"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gradtool "$@"\n')
    script.chmod(0o755)
    return directory


def test_commands_print_what_the_page_shows(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    shown = [text for _, text in sessions(page)]
    assert len(shown) >= 4
    assert list(outputs(page, tmp_path)) == shown


def test_the_exit_codes_are_those_of_the_page(tmp_path: Path) -> None:
    train(tmp_path)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "run" / "step001.npz").read_bytes()[:700])
    sick = "run/step004.npz"
    for arguments, code in (
        ("run/step001.npz", 0),
        (sick, 1),
        (f"{sick} --exit-zero", 0),
        (f"{sick} --select GT999", 2),
        (f"cut.npz {sick} --exit-zero", 3),
        ("run/step001.npz --baseline nowhere.json", 3),
    ):
        done = gradtool(f"check {arguments}", tmp_path)
        assert done.returncode == code, (arguments, done.stderr)


def test_the_families_are_those_of_the_rules() -> None:
    listed = re.findall(r"^\| GT(\d)xx \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == list(FAMILIES) == sorted({code[2] for code in RULES})
    assert set(re.findall(r"GT\d{3}", PAGE.read_text(encoding="utf-8"))) <= set(RULES)


def test_the_configuration_is_one(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(example(PAGE, "toml", "pyproject.toml"))
    settings = load_config(str(path)).settings
    assert settings.ignore == ("GT301",)
    assert settings.thresholds == {"GT203": {"max_norm": 50}}
    assert settings.severities == {"GT202": "error"}
    assert [one.patterns for one in settings.overrides] == [("embed.*",)]
    own = tmp_path / "gradtool.toml"
    own.write_text(path.read_text().replace("tool.gradtool.", ""))
    assert load_config(str(own)).settings == settings


def test_the_test_for_pytest_passes_and_can_fail(tmp_path: Path) -> None:
    text = example(PAGE, "python", "test_gradients.py")
    file = tmp_path / "test_gradients.py"
    command = [sys.executable, *shlex.split(text.split("\n", 1)[0].removeprefix("# python "))]
    file.write_text(text)
    passed = run(command, tmp_path)
    assert passed.returncode == 0, passed.stdout
    sick = text.replace("torch.randn(16, 4)", "torch.full((16, 4), float('nan'))")
    assert sick != text
    file.write_text(sick)
    failed = run(command, tmp_path)
    assert failed.returncode == 1
    assert "GT101 nan" in failed.stdout


def check_jsonschema(schema: str, text: str, directory: Path) -> bool:
    file = directory / "example.yml"
    file.write_text(text)
    command = ["-m", "check_jsonschema", "--builtin-schema", schema, str(file)]
    return run([sys.executable, *command], directory).returncode == 0


@pytest.mark.parametrize(
    ("schema", "text", "right", "wrong"),
    [
        (
            "vendor.github-actions",
            (ROOT / "action.yml").read_text(),
            "using: composite",
            "using: shell",
        ),
        (
            "vendor.github-workflows",
            example(PAGE, "yaml", "gradients.yml"),
            "on: [push]",
            "on: [pull]",
        ),
        ("vendor.github-workflows", example(PAGE, "yaml", "same.yml"), "on: [push]", "on: [pull]"),
        ("vendor.gitlab-ci", example(PAGE, "yaml", ".gitlab-ci.yml"), "when: always", "when: ever"),
    ],
)
def test_yaml_is_what_its_schema_asks_for(
    schema: str, text: str, right: str, wrong: str, tmp_path: Path
) -> None:
    assert check_jsonschema(schema, text, tmp_path)
    assert not check_jsonschema(schema, text.replace(right, wrong), tmp_path)


def action() -> Any:
    return yaml((ROOT / "action.yml").read_text())


def test_no_script_of_the_action_has_an_input_in_it() -> None:
    scripts = [step["run"] for step in action()["runs"]["steps"] if "run" in step]
    assert len(scripts) == 2
    assert [script for script in scripts if "${{" in script] == []


@pytest.mark.parametrize("workflow", ["gradients.yml", "same.yml"])
def test_the_workflow_gives_the_action_inputs_that_it_has(workflow: str) -> None:
    assert set(workflow_inputs(workflow)) <= set(action()["inputs"])


def workflow_inputs(workflow: str = "gradients.yml") -> dict[str, str]:
    (job,) = yaml(example(PAGE, "yaml", workflow))["jobs"].values()
    (step,) = [one for one in job["steps"] if "gradtool" in one.get("uses", "")]
    return dict(step["with"])


def run_action(inputs: dict[str, str], directory: Path) -> subprocess.CompletedProcess[str]:
    """The action's last step as a runner runs it, in `directory`, with gradtool from here."""
    if not (directory / "temp").exists():
        program(directory / "temp" / "gradtool" / "bin")
    found = action()
    step = found["runs"]["steps"][-1]
    values = {name: str(one.get("default", "")) for name, one in found["inputs"].items()} | inputs
    variables = {
        key: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda match: values[match[1]], value)
        for key, value in step["env"].items()
    }
    script = directory / "temp" / "step.sh"
    script.write_text(step["run"])
    return run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        directory,
        RUNNER_TEMP=str(directory / "temp"),
        GITHUB_STEP_SUMMARY=str(directory / "temp" / "summary.md"),
        **variables,
    )


def test_the_action_checks_what_the_workflow_says(tmp_path: Path) -> None:
    train(tmp_path)
    inputs = workflow_inputs()
    tolerant = run_action(inputs, tmp_path)
    assert tolerant.returncode == 0, tolerant.stderr
    assert tolerant.stdout.startswith("::warning file=run/step004.npz")
    strict = run_action({**inputs, "args": ""}, tmp_path)
    assert strict.returncode == 1
    assert strict.stdout.startswith("::error file=run/step004.npz")
    summary = (tmp_path / "temp" / "summary.md").read_text()
    assert summary.count("### gradtool check") == 2
    root = ET.parse(tmp_path / inputs["junit"]).getroot()  # noqa: S314 - our own file
    assert len(root.findall("testsuite/testcase/failure")) == 1


def test_the_action_compares_two_dumps(tmp_path: Path) -> None:
    train(tmp_path)
    inputs = workflow_inputs("same.yml")
    tolerant = run_action(inputs, tmp_path)
    assert tolerant.returncode == 0, tolerant.stderr
    exact = run_action({**inputs, "args": "", "junit": "diff.xml"}, tmp_path)
    assert exact.returncode == 1
    assert exact.stdout.startswith("::error file=run/step002.npz")
    summary = (tmp_path / "temp" / "summary.md").read_text()
    assert "### 4 of 4 tensors differ" in summary
    root = ET.parse(tmp_path / "diff.xml").getroot()  # noqa: S314 - our own file
    assert len(root.findall("testsuite/testcase/failure")) >= 4
    both = run_action({**inputs, "paths": "run/step001.npz"}, tmp_path)
    assert (both.returncode, both.stdout.count("::error::give either paths")) == (2, 1)
    for alone in ("old", "new"):
        assert run_action({alone: inputs[alone]}, tmp_path).returncode == 2


def test_the_action_takes_names_for_nothing_but_names(tmp_path: Path) -> None:
    train(tmp_path)
    hostile = ["a b.npz", "$(touch hurt).npz", "'; touch hurt;'.npz", "-q.npz", "`touch hurt`.npz"]
    for name in hostile:
        (tmp_path / name).write_bytes((tmp_path / "run" / "step001.npz").read_bytes())
    done = run_action({"paths": "\n".join(hostile) + "\n", "args": "--quiet $(touch\n"}, tmp_path)
    assert done.returncode == 3, "$(touch is a path that is not there"
    done = run_action({"paths": "\n".join(hostile) + "\n", "args": "--quiet\n"}, tmp_path)
    assert (done.returncode, done.stdout) == (0, "gradtool check: 5 dumps ok\n"), done.stderr
    assert not (tmp_path / "hurt").exists()


def test_an_action_without_paths_is_an_error(tmp_path: Path) -> None:
    assert run_action({"paths": "\n"}, tmp_path).returncode == 2


def test_the_job_for_gitlab_writes_its_report(tmp_path: Path) -> None:
    train(tmp_path)
    job = yaml(example(PAGE, "yaml", ".gitlab-ci.yml"))["gradients"]
    install, script = job["script"]
    assert install.startswith("pip install ")  # from the network: not here
    path = f"{program(tmp_path / 'bin')}:{os.environ['PATH']}"
    done = run(["bash", "-c", script], tmp_path, PATH=path)
    assert done.returncode == 0, done.stderr
    report = ET.parse(tmp_path / job["artifacts"]["reports"]["junit"])  # noqa: S314 - our own
    assert len(report.getroot().findall("testsuite")) == 7, "six steps, and all together"


def hook_config(directory: Path) -> None:
    """The page's configuration, but for where the hook comes from.

    pre-commit would clone the repository and install it, with its dependencies and what builds it,
    from the network. Everything else it does here for real: it chooses files and runs the entry.
    """
    (hook,) = yaml((ROOT / ".pre-commit-hooks.yaml").read_text())
    (source,) = yaml(example(PAGE, "yaml", ".pre-commit-config.yaml"))["repos"]
    (chosen,) = source["hooks"]
    assert chosen["id"] == hook["id"]
    local = {"repo": "local", "hooks": [{**hook, **chosen, "language": "system"}]}
    with (directory / ".pre-commit-config.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump({"repos": [local]}, file)


def pre_commit(directory: Path) -> subprocess.CompletedProcess[str]:
    git = ["git", "-c", "init.defaultBranch=main"]
    assert run([*git, "init", "--quiet"], directory).returncode == 0
    assert run(["git", "add", "--all", "."], directory).returncode == 0
    path = f"{directory.parent / 'bin'}:{os.environ['PATH']}"
    command = [sys.executable, "-m", "pre_commit", "run", "--all-files", "--verbose"]
    return run(command, directory, PATH=path, PRE_COMMIT_HOME=str(directory.parent / "home"))


def test_the_hook_checks_the_dumps_of_a_commit_together(tmp_path: Path) -> None:
    program(tmp_path / "bin")
    repository = tmp_path / "repository"
    (repository / "tests" / "broken").mkdir(parents=True)
    train(repository)
    hook_config(repository)
    (repository / "run" / "notes.txt").write_text("no dump")
    (repository / "run" / "with space.npz").write_bytes(
        (repository / "run" / "step001.npz").read_bytes()
    )
    sick = repository / "run" / "step004.npz"
    sick.rename(repository / "tests" / "broken" / "excluded.npz")
    passed = pre_commit(repository)
    assert passed.returncode == 0, passed.stdout
    assert passed.stdout.count("6 dumps ok") == 1, passed.stdout
    (repository / "tests" / "broken" / "excluded.npz").rename(sick)
    failed = pre_commit(repository)
    assert failed.returncode == 1
    assert failed.stdout.count("1 of 7 dumps failed") == 1, failed.stdout


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth", "bin", "npz", "npy"])
def test_the_hook_takes_files_of_dumps(suffix: str) -> None:
    (hook,) = yaml((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert re.search(hook["files"], f"run/grads.{suffix}")
    assert not re.search(hook["files"], f"run/grads.{suffix}.txt")
    assert not re.search(hook["files"], f"run/grads{suffix}")


def test_manifest_and_configuration_are_what_pre_commit_reads(tmp_path: Path) -> None:
    manifest = run(
        [
            sys.executable,
            "-m",
            "pre_commit",
            "validate-manifest",
            str(ROOT / ".pre-commit-hooks.yaml"),
        ],
        tmp_path,
    )
    assert manifest.returncode == 0, manifest.stdout
    config = tmp_path / "config.yaml"
    config.write_text(example(PAGE, "yaml", ".pre-commit-config.yaml"))
    command = [sys.executable, "-m", "pre_commit", "validate-config", str(config)]
    assert run(command, tmp_path).returncode == 0
    config.write_text(config.read_text().replace("rev:", "version:"))
    assert run(command, tmp_path).returncode != 0


def rewrite() -> None:
    """The page with the output of today."""
    page = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as directory:
        printed = outputs(page, Path(directory))

        def block(found: re.Match[str]) -> str:
            kind, text = found.groups()
            if kind != "console":
                return found[0]
            command = text.split("\n", 1)[0]
            return f"```{kind}\n{command}\n{next(printed)}```"

        PAGE.write_text(BLOCK.sub(block, page), encoding="utf-8")


if __name__ == "__main__":
    rewrite()
