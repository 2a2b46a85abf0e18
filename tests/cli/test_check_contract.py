"""The contract of `gradtool check`, `baseline`, `rules` and `explain`: exit codes and streams."""

import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from command_line import (
    ENVIRONMENT,
    GRADTOOL,
    error_lines,
    loaded,
    on_terminal,
    read_until,
    run,
    started,
    wait_for_reading,
)
from nobody import as_nobody
from numpy.typing import NDArray
from pickle_parts import archive, named, tensor
from safetensors.numpy import save_file

import gradtool
import gradtool.cli.commands.check  # which says how its options are spelt
from gradtool.cli.spelling import with_options
from gradtool.core.judging.rule import SEVERITIES
from gradtool.report import CHECK_REPORTERS
from gradtool.rules import RULES

ONE = np.ones(1, np.float32)
SHARDS = {"a": "grads-00001-of-00002.safetensors", "b": "grads-00002-of-00002.safetensors"}
DUMPS: dict[str, dict[str, NDArray[Any]]] = {
    "healthy": {"w": np.float32([3, 4])},
    "other": {"w": np.float32([6, 8])},
    "nan": {"w": np.float32([3, np.nan]), "v": ONE},
    "inf": {"w": np.float32([3, -np.inf]), "v": ONE},
    "large": {"w": np.float32([30_000, 40_000])},
    "zero": {"w": np.zeros(4, np.float32)},
    "sparse": {"w": np.eye(1, 10_000, dtype=np.float32)},
    "half": {"w": np.full(4, 60_000, np.float16)},
    "dead": {f"layers.{at}.w": np.full(4, float(at != 1), np.float32) for at in range(3)},
    "weights": {"model.w": ONE, "optimizer.w": ONE},
    "sections": {"grads.w": ONE, "model.w": np.float32([30_000])},
    "integers": {"step": np.array([7])},
    "empty": {},
    "run/grads-00001-of-00002": {"a": ONE},
    "run/grads-00002-of-00002": {"b": ONE},
    "partial/grads-00001-of-00002": {"a": ONE},
}


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of dumps in every state, which no test changes."""
    yard = tmp_path_factory.mktemp("yard")
    for name, tensors in DUMPS.items():
        path = yard / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file(tensors, str(path))
    for folder in ("run", "partial"):
        index = {"metadata": {}, "weight_map": SHARDS}
        (yard / folder / "grads.safetensors.index.json").write_text(json.dumps(index))
    (yard / "notes.txt").write_text("no tensors here")
    healthy = (yard / "healthy.safetensors").read_bytes()
    (yard / "cut.safetensors").write_bytes(healthy[:-1])
    three, two = np.float32(3).tobytes() * 4, np.float32(2).tobytes() * 4
    content = archive(yard / "sound.pt", named(tensor()), {"0": three}).read_bytes()
    assert content.count(three) == 1
    (yard / "rotten.pt").write_bytes(content.replace(three, two))
    np.save(yard / "raw.npy", np.array([0x4040, 0x4080], np.uint16).view("V2"))
    (yard / "bounds.toml").write_text("[check.GT203]\nmax_norm = 50000")
    for name in ("healthy", "other"):
        done = run("baseline", "save", f"{name}.safetensors", "-o", f"{name}.json", cwd=yard)
        assert (done.returncode, done.stderr) == (0, "")
    return yard


@pytest.fixture
def workplace(yard: Path, tmp_path: Path) -> Path:
    """A copy of the yard that a test may change."""
    return Path(shutil.copytree(yard, tmp_path / "workplace"))


def content_of(folder: Path) -> dict[str, bytes | None]:
    """Everything under `folder`, hidden files and empty directories included."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def check(arguments: str, folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """A check of dumps, called by their names without `.safetensors` where they have that."""
    args = shlex.split(arguments)
    for at, (before, arg) in enumerate(zip(["", *args], args, strict=False)):
        if arg in (*DUMPS, "cut") and not before.startswith("-"):
            args[at] = f"{arg}.safetensors"
    return run("check", *args, **{"cwd": folder, **options})


def judged(arguments: str, folder: Path, **options: Any) -> dict[str, Any]:
    """What the JSON report says, which is of one mind with the process."""
    result = check(f"{arguments} -f json", folder, **options)
    report: dict[str, Any] = json.loads(result.stdout)
    assert report["exit_code"] == result.returncode
    return report


def codes(report: dict[str, Any]) -> set[str]:
    """Of all findings."""
    findings = [*report["findings"], *(one for dump in report["dumps"] for one in dump["findings"])]
    return {finding["code"] for finding in findings}


@pytest.mark.parametrize(
    ("dump", "exit_code", "found"),
    [
        ("healthy", 0, ""),
        ("run", 0, ""),
        ("run/grads.safetensors.index.json", 0, ""),
        ("sound.pt", 0, ""),
        ("sections", 0, ""),
        ("sparse", 0, "GT205"),
        ("nan", 1, "GT101"),
        ("inf", 1, "GT102"),
        ("nan inf", 1, "GT101 GT102"),
        ("large", 1, "GT203"),
        ("zero", 1, "GT203"),
        ("half", 1, "GT201 GT202 GT203"),
        ("dead", 1, "GT207"),
        ("empty", 3, "GT002"),
        ("integers", 3, "GT002"),
        ("weights", 0, ""),
        ("cut", 3, "GT001"),
        ("notes.txt", 3, "GT001"),
        ("missing", 3, "GT001"),
        ("'missing*'", 3, "GT001"),
        ("partial", 3, "GT003"),
        ("nan cut", 3, "GT001 GT101"),
        ("cut nan", 3, "GT001 GT101"),
        ("healthy healthy", 0, ""),
    ],
)
def test_every_state_of_a_dump_has_an_exit_code(
    dump: str, exit_code: int, found: str, yard: Path
) -> None:
    report = judged(dump, yard)
    assert codes(report) == set(found.split())
    assert report["exit_code"] == exit_code
    assert report["verdict"] == ("fail" if exit_code else "pass")


STATES = {"sparse": 0, "healthy nan": 1, "healthy nan cut": 3}


def told_on_stderr(way: str) -> bool:
    """Whether what cannot be judged is said there: not where a report on stdout tells people."""
    stdout = [word for word in re.findall(r"-f (\S+)", way) if ":" not in word]
    formats = stdout if "-f" in way else ["text"]
    return {"text", "markdown"}.isdisjoint(formats)


WAYS = [
    *(f"-f {name}" for name in CHECK_REPORTERS),
    *(f"-f {name}:OUT" for name in CHECK_REPORTERS),
    "-q",
    "--all",
    "--color always",
    "--no-progress --color never",
    "-f text -f github:OUT",
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("state", "exit_code"), STATES.items())
def test_no_way_of_telling_changes_the_exit_code(
    state: str, exit_code: int, way: str, yard: Path, tmp_path: Path
) -> None:
    result = check(f"{state} {way.replace('OUT', shlex.quote(f'{tmp_path}/out'))}", yard)
    assert result.returncode == exit_code
    told = state.count("cut") if told_on_stderr(way) else 0
    assert len(error_lines(result)) == len(result.stderr.splitlines()) == told
    assert bool(result.stdout) == (not way.endswith(":OUT") or "text -f" in way)
    assert (tmp_path / "out").exists() == (":OUT" in way)


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        ("healthy", 0),
        ("nan", 0),
        ("nan large", 0),
        ("sparse --fail-on warning", 0),
        ("cut", 3),
        ("nan cut", 3),
        ("empty", 3),
        ("nan --select GT999", 2),
        ("nan --section nowhere", 2),
        ("nan -f text:no/such/folder", 3),
    ],
)
def test_exit_zero_forgives_findings_and_nothing_else(
    arguments: str, exit_code: int, yard: Path
) -> None:
    result = check(f"{arguments} --exit-zero", yard)
    assert result.returncode == exit_code
    if exit_code == 0:
        assert result.stdout == check(arguments, yard).stdout


def test_exit_zero_forgives_in_every_format(yard: Path) -> None:
    for name in CHECK_REPORTERS:
        assert check(f"nan --exit-zero -f {name}", yard).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        ("sparse", 0),
        ("sparse --fail-on error", 0),
        ("sparse --fail-on warning", 1),
        ("healthy --fail-on warning", 0),
        ("nan --fail-on warning", 1),
        ("sparse --set GT205.severity=error", 1),
        ("nan --set GT101.severity=warning", 0),
        ("nan --set GT101.severity=warning --fail-on warning", 1),
    ],
)
def test_severities_decide_what_fails(arguments: str, exit_code: int, yard: Path) -> None:
    assert judged(arguments, yard)["exit_code"] == exit_code


USAGE_ERRORS = [
    ("", "PATH"),
    ("''", "PATH is empty"),
    ("healthy --nonsense", "--nonsense"),
    ("healthy -f xml", "'xml'.*junit"),
    ("healthy -f json:", "no file after the colon"),
    ("healthy -f json -f text", "stdout"),
    ("healthy -f text:- -f github", "stdout"),
    ("healthy -f text -f json:/dev/stdout", "stdout"),
    ("healthy -f json:out2 -f text:out2", "out2"),
    ("healthy -f json:out2 -f text:./out2", "out2"),
    ("healthy -f json:out2 -f text:run/../out2", "out2"),
    ("healthy --select GT999", "GT999: .*did you mean GT"),
    ("healthy --select ''", "select"),
    ("healthy --select GT101,", "select"),
    ("healthy --select GT101 --select GT101", "'GT101' is there twice"),
    ("healthy --ignore GT101,GT101", "'GT101' is there twice"),
    ("healthy --ignore GT999", "ignore.*GT999"),
    ("healthy --ignore GT001", "GT001 cannot be ignored"),
    ("healthy --select GT101 --ignore GT101", "both selected and ignored"),
    ("healthy --select GT101 --ignore GT1", "both selected and ignored"),
    ("healthy --set GT203", "CODE.NAME=VALUE"),
    ("healthy --set GT203=5", "GT203.NAME"),
    ("healthy --set GT203.max_norm=5 --set GT203.max_norm=6", "GT203.max_norm is given twice"),
    ("healthy --set GT203.max_norm=nan", "GT203.max_norm.*nan"),
    ("healthy --set GT203.max_norm=-1", "GT203.max_norm.*-1"),
    ("healthy --set GT203.max_norm=true", "GT203.max_norm.*True"),
    ("healthy --set GT203.max_norm=", "GT203.max_norm.*''"),
    ("healthy --set GT203.max_norm=ten", "GT203.max_norm.*'ten'"),
    ("healthy --set GT203.max_norm=[5]", "GT203.max_norm"),
    ("healthy --set 'GT203.max_norm=5\nother=6'", "GT203.max_norm"),
    ("healthy --set GT203.max_nrom=5", "GT203.max_nrom.*max_norm"),
    ("healthy --set GT999.max_norm=5", "GT999"),
    ("healthy --set max_norm=5", "max_norm.*no such code"),
    ("healthy --set GT101.severity=fatal", "GT101.severity.*'fatal'"),
    ("healthy --ignore GT203 --set GT203.max_norm=5", "GT203"),
    ("healthy --select GT101 --set GT203.max_norm=5", "GT203"),
    ("healthy --select GT403", "GT403 needs a baseline"),
    ("healthy --set GT403.max_factor=5", "GT403 needs a baseline"),
    ("healthy --select GT401", "GT401 needs an expected norm"),
    ("healthy --expect-norm 5 --set GT401.norm=6", "GT401.norm"),
    ("healthy --min-tensors 0", "--min-tensors"),
    ("healthy --min-tensors one", "--min-tensors"),
    ("healthy --expect ''", "GT007.names"),
    ("healthy --expect-norm nan", "--expect-norm"),
    ("healthy --expect-norm -1", "--expect-norm"),
    ("healthy --rtol 1e-3", "rtol.*nothing to compare"),
    ("healthy --expect-norm 5 --rtol nan", "--rtol"),
    ("healthy --expect-norm 5 --rtol inf", "--rtol"),
    ("healthy --max-consecutive-nonfinite -1", "--max-consecutive-nonfinite"),
    ("healthy --fail-on info", "--fail-on"),
    ("healthy --config healthy.json --isolated", "--isolated"),
    ("healthy --config missing.toml", "missing.toml: cannot be read"),
    ("healthy --config run", "run: cannot be read"),
    ("healthy --config healthy.safetensors", "is no TOML"),
    ("healthy --baseline healthy.json -p 1", "order 2, not 1"),
    ("healthy --raw-dtype BF61", "BF16"),
]


@pytest.mark.parametrize(("arguments", "said"), USAGE_ERRORS)
def test_usage_errors_exit_2_with_one_line_and_no_report(
    arguments: str, said: str, yard: Path, tmp_path: Path
) -> None:
    before = content_of(yard)
    result = check(f"{arguments} -f json:{shlex.quote(f'{tmp_path}/out')}", yard)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = error_lines(result)
    assert re.search(said, line), line
    assert list(tmp_path.iterdir()) == []
    assert content_of(yard) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--baseline missing.json", "missing.json: cannot be read"),
        ("--baseline run", "run: cannot be read"),
        ("--baseline healthy.safetensors", "healthy.safetensors"),
        ("--baseline short.json", "short.json"),
        ("--baseline later.json", "later.json: its schema is 'gradtool.baseline/2'"),
        ("--baseline report.json", "report.json: its schema is 'gradtool.check/1'"),
        ("--baseline list.json", "list.json"),
        ("--baseline bare.json", "bare.json"),
    ],
)
def test_a_baseline_that_is_none_exits_3_with_one_line(
    arguments: str, said: str, workplace: Path
) -> None:
    text = (workplace / "healthy.json").read_text()
    (workplace / "short.json").write_text(text[: len(text) // 2])
    (workplace / "later.json").write_text(text.replace("baseline/1", "baseline/2"))
    (workplace / "report.json").write_text(check("healthy -f json", workplace).stdout)
    (workplace / "list.json").write_text("[]")
    (workplace / "bare.json").write_text('{"schema": "gradtool.baseline/1"}')
    result = check(f"healthy {arguments} -f json:out", workplace)
    assert (result.returncode, result.stdout) == (3, "")
    (line,) = error_lines(result)
    assert said in line
    assert not (workplace / "out").exists()


def test_a_baseline_of_another_model_is_a_finding(yard: Path) -> None:
    assert codes(judged("dead --ignore GT2 --baseline healthy.json", yard)) == {"GT404"}


def test_brackets_without_end_are_a_name_like_any_other(yard: Path) -> None:
    found = judged(f"healthy --set GT007.names={'[' * 5_000}", yard)
    assert codes(found) == {"GT007"}


def xml(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 - our own


def without_times(text: str) -> str:
    text = re.sub(r'"elapsed_s": [\d.e-]+', "", text)
    return re.sub(r'(time|timestamp)="[^"]*"', "", text)


def test_several_formats_each_go_to_their_place(yard: Path, tmp_path: Path) -> None:
    places = [f"-f {name}:'{tmp_path}/{name}'" for name in CHECK_REPORTERS if name != "github"]
    both = check(f"nan sparse {' '.join(places)} -f github", yard)
    assert (both.returncode, both.stderr) == (1, "")
    assert both.stdout == check("nan sparse -f github", yard).stdout
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert written.keys() == CHECK_REPORTERS.keys() - {"github"}
    for name, text in written.items():
        alone = check(f"nan sparse -f {name}", yard).stdout
        assert without_times(text) == without_times(alone)
    assert len({*written.values(), both.stdout}) == len(CHECK_REPORTERS)
    assert json.loads(written["json"])["exit_code"] == 1
    assert xml(written["junit"]).tag == "testsuites"


def test_text_is_the_default_and_a_dash_is_stdout(yard: Path) -> None:
    plain = check("nan", yard).stdout
    assert plain == check("nan -f text", yard).stdout == check("nan -f text:-", yard).stdout
    assert plain == check("nan -f text:/dev/stdout", yard).stdout


@pytest.mark.parametrize("option", ["", "--color always"])
def test_a_report_in_a_file_is_plain(option: str, yard: Path, tmp_path: Path) -> None:
    check(f"nan -f text:{shlex.quote(f'{tmp_path}/out')} {option}", yard)
    assert (tmp_path / "out").read_text() == check("nan", yard).stdout


@pytest.mark.parametrize("file", ["no/such/folder", ".", "healthy.safetensors/report", ""])
def test_a_report_that_cannot_be_written_exits_3(file: str, workplace: Path) -> None:
    before = content_of(workplace)
    result = check(f"nan -f 'json:{file or '/proc/nothing'}'", workplace)
    assert (result.returncode, result.stdout) == (3, "")
    (line,) = error_lines(result)
    assert "cannot be written" in line or "is a directory" in line
    assert content_of(workplace) == before


def test_a_report_that_finds_no_room_leaves_the_older_one(workplace: Path) -> None:
    (workplace / "report").write_text("old")
    before = content_of(workplace)
    result = check(
        "nan -f json:report",
        workplace,
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)),
    )
    assert (result.returncode, result.stdout) == (3, "")
    assert "cannot be written" in error_lines(result)[0]
    assert content_of(workplace) == before


@pytest.mark.parametrize("way", [None, "symlink_to", "hardlink_to"])
@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        ("healthy", "healthy.safetensors"),
        ("other healthy", "healthy.safetensors"),
        ("'healthy.*s'", "healthy.safetensors"),
        ("cut", "cut.safetensors"),
        ("run", "run/grads-00001-of-00002.safetensors"),
        ("run", "run/grads-00002-of-00002.safetensors"),
        ("run", "run/grads.safetensors.index.json"),
        ("run/grads.safetensors.index.json", "run/grads-00002-of-00002.safetensors"),
        ("healthy --baseline healthy.json", "healthy.json"),
        ("healthy --config own.toml", "own.toml"),
        ("healthy --config own.toml", "other.json"),
    ],
)
def test_a_report_never_replaces_what_is_read(
    arguments: str, file: str, way: str | None, workplace: Path
) -> None:
    (workplace / "own.toml").write_text('[check]\nbaseline = "other.json"')
    output = workplace / file
    if way is not None:
        output = workplace / "report"
        getattr(output, way)(workplace / file)
    before = content_of(workplace)
    result = check(f"{arguments} -f text -f json:{shlex.quote(str(output))}", workplace)
    assert (result.returncode, result.stdout) == (2, "")
    assert len(error_lines(result)) == 1
    assert content_of(workplace) == before


def test_a_report_beside_the_shards_is_replaced(workplace: Path) -> None:
    for _ in range(2):
        assert check("run -f json:run/report.json", workplace).returncode == 0
    assert json.loads((workplace / "run" / "report.json").read_text())["exit_code"] == 0


def test_an_unreadable_dump_leaves_the_others_judged(yard: Path) -> None:
    result = check("cut nan healthy", yard)
    assert result.returncode == 3
    assert result.stderr == ""
    (line,) = error_lines(check("cut nan healthy -f json", yard))
    assert "cut.safetensors" in line
    for path in ("cut", "nan", "healthy"):
        assert f"{path}.safetensors: " in result.stdout
    dumps = judged("cut nan healthy missing", yard)["dumps"]
    assert [dump["exit_code"] for dump in dumps] == [3, 1, 0, 3]
    for name, dump in zip(("nan", "healthy"), dumps[1:3], strict=True):
        (alone,) = judged(name, yard)["dumps"]
        assert {**alone, "elapsed_s": 0} == {**dump, "elapsed_s": 0}


def test_what_was_not_measured_is_never_called_healthy(yard: Path) -> None:
    for name in ("cut", "empty", "missing", "partial"):
        result = check(name, yard)
        assert ": ok" not in result.stdout
        (dump,) = judged(name, yard)["dumps"]
        assert (dump["verdict"], dump["total"]) == ("fail", None)


def test_checksums_are_checked_when_asked_for(yard: Path) -> None:
    assert check("rotten.pt", yard).returncode == 0
    result = check("rotten.pt --verify", yard)
    assert result.returncode == 3
    assert result.stdout.count("CRC-32") == 1
    assert result.stderr == ""


@pytest.mark.parametrize("name", CHECK_REPORTERS)
@pytest.mark.parametrize(("state", "exit_code"), [("nan", 1), ("nan cut", 3)])
def test_a_reader_that_is_gone_does_not_change_the_exit_code(
    state: str, exit_code: int, name: str, yard: Path
) -> None:
    reader, pipe = os.pipe()
    os.close(reader)
    result = check(f"{state} -f {name}", yard, stdout=pipe)
    os.close(pipe)
    assert result.returncode == exit_code
    told = state.count("cut") if told_on_stderr(f"-f {name}") else 0
    assert len(error_lines(result)) == len(result.stderr.splitlines()) == told


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command.replace("gradtool", shlex.join(GRADTOOL))],
        capture_output=True,
        check=False,
        cwd=folder,
        env=ENVIRONMENT,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("name", CHECK_REPORTERS)
def test_head_may_have_seen_enough(name: str, tmp_path: Path) -> None:
    many = {f"layers.{at}.weight": np.float32([np.nan]) for at in range(5_000)}
    save_file(many, str(tmp_path / "many"))
    result = shell(
        f"set -o pipefail; gradtool check many --all -f {name} | head -1 >/dev/null", tmp_path
    )
    assert (result.returncode, result.stderr) == (1, "")


WRITERS = [
    *(f"gradtool check nan.safetensors -f {name}" for name in CHECK_REPORTERS),
    "gradtool rules",
    "gradtool explain nan",
    "gradtool check --help",
]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("stdout", ["/dev/full", "&-"])
def test_a_stdout_that_takes_nothing_exits_3(writer: str, stdout: str, yard: Path) -> None:
    result = shell(f"{writer} >{stdout}", yard)
    assert (result.returncode, result.stdout) == (3, "")
    assert len(error_lines(result)) == len(result.stderr.splitlines()) == 1


def test_errors_that_nobody_hears_never_get_into_stdout(yard: Path) -> None:
    result = shell("gradtool check cut.safetensors -f json 2>&-", yard)
    assert (result.returncode, result.stderr) == (3, "")
    assert json.loads(result.stdout)["exit_code"] == 3


def test_the_summary_of_a_step_is_added_to(yard: Path, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("what steps before wrote\n")
    env = {"GITHUB_STEP_SUMMARY": str(summary)}
    first, second = (check(f"{name} -f markdown", yard).stdout for name in ("nan", "healthy"))
    assert check("nan -f github", yard, env=env).returncode == 1
    assert summary.read_text() == f"what steps before wrote\n{first}"
    arguments = f"healthy -f text -f github:{shlex.quote(f'{tmp_path}/out')}"
    assert check(arguments, yard, env=env).returncode == 0
    assert summary.read_text() == f"what steps before wrote\n{first}{second}"


def test_the_summary_is_for_the_format_github_only(yard: Path, tmp_path: Path) -> None:
    env = {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    for name in CHECK_REPORTERS.keys() - {"github"}:
        check(f"nan -f {name}", yard, env=env)
    check("nan -f github --nonsense", yard, env=env)
    check("nan -f github", yard, env={"GITHUB_STEP_SUMMARY": ""})
    assert list(tmp_path.iterdir()) == []
    check("nan -f github", yard, env=env)
    assert list(tmp_path.iterdir()) == [tmp_path / "summary.md"]


def test_a_summary_takes_the_place_of_nothing_that_is_read(yard: Path, tmp_path: Path) -> None:
    dump = tmp_path / "dump.safetensors"
    dump.write_bytes((yard / "nan.safetensors").read_bytes())
    before = dump.read_bytes()
    result = check(f"{dump} -f github", yard, env={"GITHUB_STEP_SUMMARY": str(dump)})
    assert (result.returncode, dump.read_bytes()) == (2, before)
    assert "GITHUB_STEP_SUMMARY is one of the files to read" in error_lines(result)[0]


def test_a_report_that_was_asked_for_in_the_summarys_place_is_written_once(
    yard: Path, tmp_path: Path
) -> None:
    summary = tmp_path / "summary.md"
    only = check("nan -f markdown", yard).stdout
    env = {"GITHUB_STEP_SUMMARY": str(summary)}
    check(f"nan -f github -f markdown:{summary}", yard, env=env)
    assert summary.read_text() == only


def test_a_summary_that_cannot_be_written_exits_3(yard: Path, tmp_path: Path) -> None:
    result = check("nan -f github", yard, env={"GITHUB_STEP_SUMMARY": str(tmp_path)})
    assert result.returncode == 3
    assert "cannot be written" in error_lines(result)[0]


def paths_of(report: dict[str, Any]) -> list[str]:
    return [dump["path"] for dump in report["dumps"]]


def test_a_quoted_glob_is_expanded_in_natural_order(tmp_path: Path) -> None:
    names = [f"{number}.safetensors" for number in (1, 9, 10, 100)]
    for name in reversed(names):
        save_file({"w": ONE}, str(tmp_path / f"part-{name}"))
        (tmp_path / "deep" / "er").mkdir(parents=True, exist_ok=True)
        save_file({"w": ONE}, str(tmp_path / "deep" / "er" / name))
    assert paths_of(judged("'part-*'", tmp_path)) == [f"part-{name}" for name in names]
    assert paths_of(judged("'**/*.safetensors'", tmp_path)) == [
        *(f"deep/er/{name}" for name in names),
        *(f"part-{name}" for name in names),
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["step_10.x", "step_9.x", "step_1000.x"], ["step_9.x", "step_10.x", "step_1000.x"]),
        (["global_step10/g.x", "global_step9/g.x"], ["global_step9/g.x", "global_step10/g.x"]),
        (["other.x", "step-3.x", "step-2.x"], ["step-2.x", "step-3.x", "other.x"]),
        (["b.x", "a.x"], ["b.x", "a.x"]),
        (["step5-rank1.x", "step5-rank0.x", "step4.x"], ["step4.x", "step5-rank*.x"]),
        (["step1/noted_3.x", "step2/g.x"], ["step2/g.x", "step1/noted_3.x"]),
    ],
)
def test_dumps_are_in_the_order_of_steps(
    given: list[str], expected: list[str], tmp_path: Path
) -> None:
    for name in given:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        metadata = {"gradtool.dump": "1", "gradtool.step": "3"} if "noted" in name else None
        save_file({"w": ONE}, str(tmp_path / name), metadata)
    assert paths_of(judged(" ".join(given), tmp_path)) == expected


def test_a_streak_is_one_of_steps_not_of_arguments(tmp_path: Path) -> None:
    for step in range(5):
        values = np.float32([np.nan if step in (1, 3) else 1.0])
        save_file({"w": values}, str(tmp_path / f"step_{step}.x"))
    mixed = "step_1.x step_3.x step_0.x step_2.x step_4.x --max-consecutive-nonfinite 1"
    assert judged(mixed, tmp_path)["exit_code"] == 0
    without = judged("step_1.x step_3.x step_0.x step_4.x --max-consecutive-nonfinite 1", tmp_path)
    assert without["exit_code"] == 1
    assert "GT103" in codes(without)


HAPPY = [
    # arguments that change the verdict, exit code without what follows the bar, and with it
    ("healthy | --min-tensors 2", 0, 1),
    ("healthy | --set GT006.min_tensors=2", 0, 1),
    ("dead --ignore GT2 | --min-tensors 3", 0, 0),
    ("healthy | --expect w", 0, 0),
    ("healthy | --expect '*.bias'", 0, 1),
    ("dead --ignore GT2 | --expect '*.0.w' --expect '*.9.w'", 0, 1),
    ("healthy | --expect-norm 5", 0, 0),
    ("healthy | --expect-norm 5.1", 0, 1),
    ("healthy --expect-norm 5.1 | --rtol 0.1", 1, 0),
    ("healthy --expect-norm 5.001 | --rtol 1e-6", 0, 1),
    ("healthy | --baseline healthy.json", 0, 0),
    ("healthy --baseline other.json | --rtol 0.5", 0, 1),
    ("healthy --baseline other.json --rtol 0.5 | --rtol 1.5", 1, 0),
    ("healthy | --baseline other.json --set GT402.max_factor=1.5", 0, 1),
    ("healthy | --baseline other.json --set GT403.max_factor=1.5", 0, 1),
    ("nan | --max-consecutive-nonfinite 1", 1, 0),
    ("nan | --select GT205", 1, 0),
    ("nan | --select GT1", 1, 1),
    ("nan | --ignore GT101,GT2", 1, 0),
    ("nan | --ignore GT101 --ignore GT2", 1, 0),
    ("large | --ignore GT203", 1, 0),
    ("large | --set GT203.max_norm=50000", 1, 0),
    ("large | --set GT203.max_norm=49999.9", 1, 1),
    ("healthy | --set GT203.max_norm=4.9", 0, 1),
    ("healthy | --set GT203.min_norm=.5e1", 0, 0),
    ("healthy | --set GT204.max_norm=3", 0, 1),
    ('healthy | --set \'GT007.names=["w", "v"]\'', 0, 1),
    ("healthy | --set GT007.names=v", 0, 1),
    ("large | --loss-scale 1000", 1, 0),
    ("nan | --include v", 1, 0),
    ("nan | -i v", 1, 0),
    ("nan | --exclude w", 1, 0),
    ("nan | -x w", 1, 0),
    ("sections | --section model", 0, 1),
    ("weights | --section nowhere", 0, 2),
    ("raw.npy | --raw-dtype bf16", 3, 0),
    ("healthy --set GT203.max_norm=6 | -p 1", 0, 1),
    ("healthy --set GT203.max_norm=4.5 | --norm-type inf", 1, 0),
    ("rotten.pt | --verify", 0, 3),
    ("nan | --threads 1", 1, 1),
    ("nan | --backend torch --device cpu --device-memory 64MiB", 1, 1),
    ("healthy | --device cuda:9999", 0, 3),
    ("large | --config bounds.toml", 1, 0),
]


@pytest.mark.parametrize(("arguments", "without", "with_it"), HAPPY)
def test_every_option_reaches_the_verdict(
    arguments: str, without: int, with_it: int, yard: Path
) -> None:
    assert exit_code_of(arguments.partition("|")[0], yard) == without
    assert exit_code_of(arguments.replace("|", ""), yard) == with_it


@cache
def exit_code_of(arguments: str, yard: Path) -> int:
    return check(arguments, yard).returncode


def test_a_tolerance_is_one_of_all_that_is_compared(yard: Path) -> None:
    found = judged("healthy --baseline healthy.json --expect-norm 5 --rtol 0.25", yard)
    rules = {rule["code"]: rule["thresholds"] for rule in found["rules"]}
    assert rules["GT401"]["rtol"] == 0.25
    assert rules["GT402"]["max_factor"] == rules["GT403"]["max_factor"] == 1.25


def test_quiet_leaves_findings_and_the_conclusion(yard: Path) -> None:
    result = check("healthy nan -q", yard)
    assert "healthy" not in result.stdout
    assert "max_norm" not in result.stdout
    assert "GT101" in result.stdout
    assert result.stdout.splitlines()[-1] == check("healthy nan", yard).stdout.splitlines()[-1]


def test_all_lists_every_finding(tmp_path: Path) -> None:
    save_file({f"t{at:02}": np.float32([np.nan]) for at in range(50)}, str(tmp_path / "many"))
    listed = [
        len(re.findall(r"\bt\d\d: ", check(f"many {option}", tmp_path).stdout))
        for option in ("", "--all")
    ]
    assert listed[0] < listed[1] == 50


def test_colours_follow_the_terminal_no_color_and_the_option(yard: Path) -> None:
    healthy = str(yard / "healthy.safetensors")
    assert "\x1b[32m" in on_terminal("check", healthy)
    assert "\x1b" not in on_terminal("check", healthy, env={"NO_COLOR": "1"})
    assert "\x1b" not in on_terminal("check", healthy, "--color", "never")
    for name in CHECK_REPORTERS:
        assert "\x1b" not in check(f"nan cut -f {name}", yard).stdout
    assert "\x1b[" in check("nan --color always", yard, env={"NO_COLOR": "1"}).stdout
    for command in ("rules", "explain GT101"):
        assert "\x1b[1m" in on_terminal(*command.split())
        assert "\x1b" not in run(*command.split()).stdout


HOSTILE = "a\x1b[31m\r\n::error::b\u202e<b>|`"


@pytest.mark.skipif(
    sys.getfilesystemencoding() != "utf-8", reason="this locale names files in ASCII only"
)
@pytest.mark.parametrize("name", CHECK_REPORTERS)
def test_names_cannot_act_on_who_reads_them(name: str, tmp_path: Path) -> None:
    save_file({HOSTILE: np.float32([np.nan])}, str(tmp_path / "good"))
    file = HOSTILE.replace("/", "")
    (tmp_path / "good").rename(tmp_path / file)
    (tmp_path / f"cut{file}").write_bytes(b"{")
    result = run("check", file, f"cut{file}", "-f", name, cwd=tmp_path)
    assert result.returncode == 3
    assert len(error_lines(result)) == told_on_stderr(f"-f {name}")
    for text in (result.stdout, result.stderr):
        assert not any(char in text for char in "\x1b\r\u202e")
        assert not re.search(r"^::error::b", text, re.MULTILINE)
    if name == "json":
        report = json.loads(result.stdout)
        assert paths_of(report) == [file, f"cut{file}"]
        assert report["dumps"][0]["findings"][0]["tensor"] == HOSTILE
    if name == "junit":
        assert "a\\x1b[31m" in xml(result.stdout)[0].attrib["name"]


@pytest.mark.parametrize("name", CHECK_REPORTERS)
def test_names_of_files_need_not_be_text(name: str, tmp_path: Path) -> None:
    save_file({"w": np.float32([np.nan])}, str(tmp_path / "good"))
    file = "grads-\udcff"
    try:
        (tmp_path / "good").rename(tmp_path / file)
    except OSError:
        pytest.skip("this file system wants UTF-8")
    result = run("check", file, "-f", name, "-f", f"text:{file}.txt", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, "")
    assert "udcff" in result.stdout
    assert "udcff" in (tmp_path / f"{file}.txt").read_text()


@pytest.mark.parametrize("command", ["check PATH -f json:OUT", "baseline save PATH -o OUT"])
def test_ctrl_c_exits_130_and_writes_nothing(command: str, huge: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = [word.replace("PATH", huge).replace("OUT", str(out)) for word in command.split()]
    with started(*args, stderr=subprocess.PIPE) as process:
        wait_for_reading(process, huge)
        process.send_signal(signal.SIGINT)
        stdout, errors = process.communicate(timeout=60)
    assert (process.returncode, stdout, errors) == (130, b"", b"gradtool: interrupted\n")
    assert list(tmp_path.iterdir()) == [Path(huge)]


@pytest.mark.parametrize("command", ["check PATH PATH", "baseline save PATH PATH -o OUT"])
def test_long_work_shows_progress_of_all_dumps_together(
    command: str, huge: str, tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    args = [word.replace("PATH", huge).replace("OUT", out) for word in command.split()]
    ours, theirs = os.openpty()
    with started(*args, stderr=theirs) as process:
        os.close(theirs)
        read_until(ours, b"/200.0 GB")
        process.send_signal(signal.SIGINT)
        said = read_until(ours, b"gradtool: interrupted")
        assert process.communicate(timeout=60)[0] == b""
    os.close(ours)
    assert process.returncode == 130
    assert b"Traceback" not in said


@pytest.mark.parametrize("arguments", ["--select GT999", "-f json:no/such --nonsense", "--rtol 1"])
def test_usage_is_checked_before_anything_is_read(arguments: str, huge: str) -> None:
    assert run("check", huge, *arguments.split(), timeout=10.0).returncode == 2


COMMANDS = ["", "check", "rules", "explain", "baseline", "baseline save", "baseline update"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_goes_to_stdout_and_loads_nothing_heavy(command: str) -> None:
    result = run(*command.split(), "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(" ".join(["Usage: gradtool", *command.split()]))
    heavy = "numpy,ml_dtypes,safetensors,rich.table,torch"
    assert loaded(heavy, *command.split(), "--help") == []


def test_what_is_loaded_can_be_too_much(yard: Path) -> None:
    assert loaded("numpy,torch", "check", str(yard / "healthy.safetensors")) == ["numpy"]


def test_help_names_every_format_and_severity() -> None:
    text = " ".join(run("check", "--help", env={"COLUMNS": "200"}).stdout.split())
    for word in (*CHECK_REPORTERS, *SEVERITIES):
        assert word in text


def words_of(text: str) -> str:
    return " ".join(text.split())


def test_rules_lists_every_rule_in_order() -> None:
    result = run("rules")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.findall(r"^(GT\d{3})", result.stdout, re.MULTILINE) == sorted(RULES)
    for rule in RULES.values():
        line = rf"^{rule.code} +{rule.name} +{rule.severity} +{re.escape(rule.summary)}$"
        assert len(re.findall(line, result.stdout, re.MULTILINE)) == 1


def test_rules_and_what_explains_them_load_nothing_heavy() -> None:
    assert loaded("torch,safetensors", "rules") == []
    assert loaded("torch,safetensors", "explain", "GT101") == []


def test_every_rule_is_explained_under_its_code_and_its_name() -> None:
    by_code, by_name = run("explain", *RULES), run("explain", *(r.name for r in RULES.values()))
    assert (by_code.returncode, by_code.stderr, by_code.stdout) == (0, "", by_name.stdout)
    parts = re.split(r"^(?=GT\d{3} \S+ \()", by_code.stdout, flags=re.MULTILINE)[1:]
    for part, rule in zip(parts, RULES.values(), strict=True):
        assert part.startswith(f"{rule.code} {rule.name} (")
        for said in (rule.summary, rule.explanation, rule.rationale, rule.remedy):
            assert words_of(with_options(said)) in words_of(part)
        for parameter in rule.parameters:
            assert parameter.name in part


@pytest.mark.parametrize("code", ["gt101", "NAN", "Gt101", "nan"])
def test_case_is_forgiven_in_what_is_to_be_explained(code: str) -> None:
    assert run("explain", code).stdout == run("explain", "GT101").stdout


@pytest.mark.parametrize(
    ("code", "nearest"),
    [("GT119", "GT10"), ("nann", "nan"), ("total_norm", "total-norm"), ("GT 203", "GT203")],
)
def test_an_unknown_rule_is_answered_with_the_nearest(code: str, nearest: str) -> None:
    result = run("explain", "GT101", code)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = error_lines(result)
    assert repr(code) in line
    assert f"did you mean {nearest}" in line


def test_explain_wants_a_code() -> None:
    result = run("explain")
    assert (result.returncode, result.stdout) == (2, "")


@pytest.fixture
def baseline(workplace: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `gradtool baseline` among the dumps."""

    def runner(arguments: str) -> subprocess.CompletedProcess[str]:
        return run("baseline", *shlex.split(arguments), cwd=workplace)

    return runner


Baselines = Callable[..., subprocess.CompletedProcess[str]]
H, OTHER, NAN = "healthy.safetensors", "other.safetensors", "nan.safetensors"


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (f"save {H} -o healthy.json", 2, "healthy.json exists; --force"),
        (f"save {H}", 2, "--output"),
        ("save -o new.json", 2, "PATH"),
        (f"save {H} -o new.json --section nowhere", 2, "nowhere"),
        (f"save {H} -o new.json -i nothing", 2, "filters"),
        (f"save {NAN} -o new.json", 1, "'w' is not finite"),
        (f"save {H} {NAN} -o new.json", 1, "nan.safetensors"),
        (f"save {NAN} -o healthy.json --force", 1, "not finite"),
        ("save inf.safetensors -o new.json", 1, "not finite"),
        ("save missing -o new.json", 3, "missing"),
        ("save cut.safetensors -o new.json", 3, "cut.safetensors"),
        ("save empty.safetensors -o new.json", 3, "empty.safetensors"),
        ("save weights.safetensors -o new.json", 3, "weights.safetensors: holds no gradient"),
        ("save rotten.pt --verify -o new.json", 3, "CRC-32"),
        (f"save {H} cut.safetensors -o healthy.json --force", 3, "cut.safetensors"),
        (f"save {H} -o no/such/new.json", 3, "no/such"),
        (f"update {NAN} --baseline healthy.json", 1, "not finite"),
        ("update cut.safetensors --baseline healthy.json", 3, "cut.safetensors"),
        (f"update {H} --baseline missing.json", 3, "missing.json"),
        (f"update {H} --baseline {H}", 3, H),
        (f"update {H}", 2, "which baseline"),
        ("update --baseline healthy.json", 2, "PATH"),
        (f"{H}", 2, H),
        (f"replace {H}", 2, "replace"),
    ],
)
def test_no_baseline_is_written_of_what_is_not_healthy(
    arguments: str, exit_code: int, said: str, baseline: Baselines, workplace: Path
) -> None:
    before = content_of(workplace)
    result = baseline(arguments)
    assert (result.returncode, result.stdout) == (exit_code, "")
    (line,) = error_lines(result)
    assert said in line
    assert content_of(workplace) == before


def test_a_saved_baseline_is_met_by_what_it_was_saved_of(
    baseline: Baselines, workplace: Path
) -> None:
    for number, dump in enumerate([H, "run", "sections.safetensors"]):
        assert baseline(f"save {dump} -o {number}.json").returncode == 0
        found = judged(f"{dump} --baseline {number}.json --rtol 1e-11", workplace)
        assert not any(code.startswith("GT4") for code in codes(found))
    assert {path.name for path in workplace.glob("?.json")} == {f"{n}.json" for n in range(3)}


def test_a_baseline_of_several_dumps_is_met_by_all_between(
    baseline: Baselines, workplace: Path
) -> None:
    assert baseline(f"save {H} {OTHER} -o range.json").returncode == 0
    save_file({"w": np.float32([4.5, 6])}, str(workplace / "between"))
    save_file({"w": np.float32([9, 12])}, str(workplace / "beyond"))
    ask = "--baseline range.json --rtol 1e-6"
    assert check(f"healthy other between {ask}", workplace).returncode == 0
    assert check(f"beyond {ask}", workplace).returncode == 1


def test_force_replaces_a_baseline(baseline: Baselines, workplace: Path) -> None:
    assert baseline(f"save {H} -o other.json --force").returncode == 0
    assert (workplace / "other.json").read_bytes() == (workplace / "healthy.json").read_bytes()


def test_update_says_what_changed_and_keeps_the_order_of_norms(
    baseline: Baselines, workplace: Path
) -> None:
    assert baseline(f"save {H} -p 1 -o one.json").returncode == 0
    result = baseline(f"update {OTHER} --baseline one.json")
    assert (result.returncode, result.stderr) == (0, "")
    assert "14" in result.stdout
    assert json.loads((workplace / "one.json").read_text())["norm_type"] == 1
    assert check("other --baseline one.json -p 1 --rtol 1e-9", workplace).returncode == 0
    again = baseline(f"update {OTHER} --baseline one.json")
    assert "nothing changed" in again.stdout


def test_update_without_a_baseline_takes_the_configured_one(workplace: Path) -> None:
    (workplace / "gradtool.toml").write_text('[check]\nbaseline = "healthy.json"')
    deep = workplace / "run"
    result = run("baseline", "update", f"../{OTHER}", cwd=deep)
    assert (result.returncode, result.stderr) == (0, "")
    found = json.loads((workplace / "healthy.json").read_text())
    assert found["tensors"] == json.loads((workplace / "other.json").read_text())["tensors"]
    assert not (deep / "healthy.json").exists()


def test_a_baseline_is_one_text_however_often_it_is_saved(
    baseline: Baselines, workplace: Path
) -> None:
    def texts() -> Iterator[bytes]:
        for _ in range(2):
            assert baseline(f"save {H} -o again.json --force").returncode == 0
            yield (workplace / "again.json").read_bytes()

    first, second = texts()
    assert first == second
    assert first.count(b'"dtype"') == len(DUMPS["healthy"])


def test_a_baseline_that_may_not_be_read_is_named(yard: Path, anyones: Path) -> None:
    path = anyones / "healthy.json"
    path.write_bytes((yard / "healthy.json").read_bytes())
    path.chmod(0)
    with as_nobody(), pytest.raises(gradtool.FileAccessError) as caught:
        gradtool.check({"w": np.float32([3, 4])}, baseline=path)
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith(f"{path}: cannot be read")


def test_a_report_that_cannot_be_written_takes_no_other_with_it(yard: Path) -> None:
    for order in ("-f json:/nowhere/report -f text", "-f text -f json:/nowhere/report"):
        result = check(f"nan {order}", yard)
        assert result.returncode == 3
        assert "/nowhere/report: cannot be written" in error_lines(result)[0]
        assert "GT101" in result.stdout


def test_what_is_healthy_takes_a_line_for_each_dump_and_one_at_the_end(yard: Path) -> None:
    lines = check("healthy other", yard).stdout.splitlines()
    assert len(lines) == 3
    assert "healthy.safetensors: ok (1 gradient, L2 norm 5.00000)" in lines[0]
    assert lines[2] == "2 dumps ok"
    told = check("healthy other --verbose", yard).stdout
    assert "GT203 min_norm=1e-08 max_norm=10000" in " ".join(told.split())


def test_a_glob_that_matches_nothing_says_so(yard: Path) -> None:
    for command in ("inspect", "check -f json", "clip --max-norm 1 --dry-run"):
        result = run(*command.split(), "no*thing.pt", cwd=yard)
        assert result.returncode == 3
        assert error_lines(result)[0].endswith("no*thing.pt: matches nothing")
