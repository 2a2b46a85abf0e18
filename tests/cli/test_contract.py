"""The contract of the command line: exit codes, streams, signals, what is loaded."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import gradtool

ROOT = str(Path(gradtool.__file__).parents[1])
PLAIN = {
    key: value
    for key, value in os.environ.items()
    if key not in ("NO_COLOR", "COLUMNS", "FORCE_COLOR")
}
ENVIRONMENT = {**PLAIN, "PYTHONPATH": ROOT, "TERM": "xterm-256color"}
GRADTOOL = (sys.executable, "-W", "error", "-m", "gradtool")


def run(*args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*GRADTOOL, *args],
        capture_output=True,
        check=False,
        env={**ENVIRONMENT, **(env or {})},
        text=True,
        timeout=120,
    )


def run_python(code: str, *args: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        check=True,
        env=ENVIRONMENT,
        text=True,
        timeout=120,
    ).stdout


def error_lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    lines = result.stderr.splitlines()
    assert all(line.startswith("gradtool: ") for line in lines), result.stderr
    return [line for line in lines if line.startswith("gradtool: error: ")]


@pytest.fixture
def dump(tmp_path: Path) -> str:
    path = str(tmp_path / "grads.safetensors")
    save_file({"w": np.array([3.0, 4.0], np.float32)}, path)
    return path


@pytest.fixture
def huge(tmp_path: Path) -> str:
    """A sparse file that takes no space on the disk and many seconds to read."""
    path = tmp_path / "huge.safetensors"
    size = 100 * 10**9
    entry = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
    header = json.dumps({"w": entry}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    return str(path)


def test_a_report_exits_0_and_leaves_stderr_empty(dump: str) -> None:
    result = run("inspect", dump)
    assert (result.returncode, result.stderr) == (0, "")
    assert "L2 norm       5\n" in result.stdout
    assert "\x1b" not in result.stdout


def test_inspect_does_not_judge(tmp_path: Path) -> None:
    path = str(tmp_path / "bad.safetensors")
    save_file({"w": np.array([np.nan, np.inf], np.float32)}, path)
    assert run("inspect", path).returncode == 0


@pytest.mark.parametrize(
    "args",
    [
        ["--nonsense"],
        ["nonsense"],
        ["inspect"],
        ["inspect", "DUMP", "--nonsense"],
        ["inspect", "DUMP", "-p", "nan"],
        ["inspect", "DUMP", "-p", "two"],
        ["inspect", "DUMP", "--max-norm", "-1"],
        ["inspect", "DUMP", "--max-norm", "nan"],
        ["inspect", "DUMP", "--eps", "-1e-6"],
        ["inspect", "DUMP", "--eps", "inf"],
        ["inspect", "DUMP", "--loss-scale", "0"],
        ["inspect", "DUMP", "--loss-scale", "inf"],
        ["inspect", "DUMP", "--threads", "0"],
        ["inspect", "DUMP", "--top", "0"],
        ["inspect", "DUMP", "--top", "1", "--all"],
        ["inspect", "DUMP", "--raw-dtype", "BF61"],
        ["inspect", "DUMP", "--group-by", "0"],
        ["inspect", "DUMP", "--format", "xml"],
        ["inspect", "DUMP", "--section", "nowhere"],
    ],
)
def test_usage_errors_exit_2_with_one_clear_line(args: list[str], dump: str) -> None:
    result = run(*(dump if arg == "DUMP" else arg for arg in args))
    assert (result.returncode, result.stdout) == (2, "")
    assert len(error_lines(result)) == 1


def test_a_misspelt_dtype_is_answered_with_the_nearest(dump: str) -> None:
    assert "Did you mean BF16?" in run("inspect", dump, "--raw-dtype", "bf61").stderr
    assert run("inspect", dump, "--raw-dtype", "bf16").returncode == 0


@pytest.mark.parametrize(("p", "norm"), [("inf", "4"), ("-inf", "3"), ("1", "7"), ("0", "2")])
def test_any_norm_type_but_nan_is_taken(p: str, norm: str, dump: str) -> None:
    assert f"L{p} norm" in run("inspect", dump, "-p", p).stdout
    total = json.loads(run("inspect", dump, "-p", p, "-f", "json").stdout)["reports"][0]["total"]
    assert total["norm"] == float(norm)


def test_nothing_readable_exits_3_with_stdout_empty(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no tensors here")
    output = tmp_path / "report.json"
    result = run("inspect", str(tmp_path / "missing"), str(text), "-o", str(output))
    assert (result.returncode, result.stdout) == (3, "")
    assert len(error_lines(result)) == 2
    assert not output.exists()


def test_every_path_is_tried_and_the_highest_code_wins(dump: str, tmp_path: Path) -> None:
    result = run("inspect", str(tmp_path / "missing"), dump, dump, "-f", "json")
    assert result.returncode == 3
    assert len(error_lines(result)) == 1
    assert [report["path"] for report in json.loads(result.stdout)["reports"]] == [dump, dump]


def test_reports_of_several_paths_follow_each_other(dump: str, tmp_path: Path) -> None:
    other = str(tmp_path / "other.safetensors")
    save_file({"w": np.zeros(1, np.float32)}, other)
    output = run("inspect", other, dump).stdout
    assert output.index(other) < output.index(dump)


def test_a_quoted_glob_is_expanded_in_natural_order(tmp_path: Path) -> None:
    for step in (10, 9):
        save_file({"w": np.ones(step, np.float32)}, str(tmp_path / f"step_{step}.safetensors"))
    result = run("inspect", str(tmp_path / "step_*.safetensors"), "-f", "json")
    paths = [Path(report["path"]).name for report in json.loads(result.stdout)["reports"]]
    assert paths == ["step_9.safetensors", "step_10.safetensors"]


def test_a_file_that_is_called_like_a_glob_wins(tmp_path: Path) -> None:
    for name in ("grads[1].safetensors", "grads1.safetensors"):
        save_file({"w": np.ones(1, np.float32)}, str(tmp_path / name))
    literal = str(tmp_path / "grads[1].safetensors")
    (report,) = json.loads(run("inspect", literal, "-f", "json").stdout)["reports"]
    assert report["path"] == literal


def test_a_glob_that_matches_nothing_is_named(tmp_path: Path) -> None:
    pattern = str(tmp_path / "*.pt")
    result = run("inspect", pattern)
    assert (result.returncode, result.stdout) == (3, "")
    assert pattern in result.stderr


def test_names_of_files_cannot_act_on_the_terminal(tmp_path: Path) -> None:
    result = run("inspect", str(tmp_path / "a\x1b[2J\nb"))
    assert result.returncode == 3
    assert "a\\x1b[2J\\x0ab" in error_lines(result)[0]


def test_names_of_files_need_not_be_text(tmp_path: Path) -> None:
    path = str(tmp_path / "grads-\udcff.safetensors")
    try:
        Path(path).write_bytes(b"")
    except OSError:
        pytest.skip("this file system wants UTF-8")
    save_file({"w": np.ones(1, np.float32)}, str(tmp_path / "good"))
    (tmp_path / "good").rename(path)
    for report_format in ("table", "json", "csv", "markdown"):
        result = run("inspect", path, "-f", report_format)
        assert (result.returncode, result.stderr) == (0, "")
        assert "udcff.safetensors" in result.stdout


def test_output_goes_to_a_file_instead(dump: str, tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    result = run("inspect", dump, "-f", "json", "-o", str(output))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert json.loads(output.read_text("utf-8"))["reports"][0]["path"] == dump


def test_an_output_that_cannot_be_written_exits_3(dump: str, tmp_path: Path) -> None:
    result = run("inspect", dump, "-o", str(tmp_path / "no" / "such" / "folder"))
    assert (result.returncode, result.stdout) == (3, "")
    assert "cannot be written" in error_lines(result)[0]


def test_a_report_never_replaces_what_it_is_about(dump: str, tmp_path: Path) -> None:
    before = Path(dump).read_bytes()
    link = tmp_path / "link.json"
    link.symlink_to(dump)
    for output in (dump, str(link)):
        result = run("inspect", dump, "-o", output)
        assert (result.returncode, result.stdout) == (2, "")
    assert Path(dump).read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_behind_stdout_exits_3(dump: str) -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [*GRADTOOL, "inspect", dump],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            text=True,
        )
    assert result.returncode == 3
    assert len(error_lines(result)) == 1


def test_a_bug_exits_4_with_a_traceback(dump: str) -> None:
    code = (
        "import sys, gradtool\n"
        "from gradtool.cli.app import app\n"
        "gradtool.measure = lambda path, **options: 1 / 0\n"
        "app(sys.argv[1:])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "inspect", dump],
        capture_output=True,
        check=False,
        env=ENVIRONMENT,
        text=True,
    )
    assert (result.returncode, result.stdout) == (4, "")
    assert "ZeroDivisionError" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("gradtool: error: this is a bug")


@pytest.mark.parametrize("rows", [1, 20_000])
@pytest.mark.parametrize("report_format", ["table", "json"])
def test_a_closed_pipe_is_no_error(rows: int, report_format: str, tmp_path: Path) -> None:
    path = str(tmp_path / "many.safetensors")
    save_file({f"layers.{row}.weight": np.ones(1, np.float32) for row in range(rows)}, path)
    command = [*GRADTOOL, "inspect", path, "--all", "-f", report_format]
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
        ) as writer,
        subprocess.Popen(
            ["head", "-1"], stdin=writer.stdout, stdout=subprocess.PIPE, env=ENVIRONMENT
        ) as head,
    ):
        assert writer.stdout is not None
        assert writer.stderr is not None
        writer.stdout.close()
        first_line = head.communicate(timeout=60)[0]
        assert (writer.wait(60), writer.stderr.read()) == (0, b"")
    assert first_line.count(b"\n") == 1


def test_a_reader_that_is_gone_does_not_change_the_exit_code(dump: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    paths = [str(tmp_path / "missing"), dump]
    result = subprocess.run(
        [*GRADTOOL, "inspect", *paths],
        check=False,
        stdout=writer,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
    )
    os.close(writer)
    assert result.returncode == 3
    assert len(error_lines(result)) == 1


def read_until(descriptor: int, wanted: bytes) -> bytes:
    seen = b""
    deadline = time.monotonic() + 60.0
    while wanted not in seen:
        assert select.select([descriptor], [], [], deadline - time.monotonic())[0], seen
        assert time.monotonic() < deadline, seen
        seen += os.read(descriptor, 4096)
    return seen


@contextmanager
def started(*args: str, stderr: int) -> Iterator[subprocess.Popen[bytes]]:
    """A running gradtool that does not outlive the test, however that ends."""
    process = subprocess.Popen(
        [*GRADTOOL, *args], stdout=subprocess.PIPE, stderr=stderr, env=ENVIRONMENT
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_long_work_shows_progress_and_ctrl_c_ends_it_with_130(huge: str) -> None:
    ours, theirs = pty.openpty()
    with started("inspect", huge, stderr=theirs) as process:
        os.close(theirs)
        read_until(ours, b"/100.0 GB")
        process.send_signal(signal.SIGINT)
        said = read_until(ours, b"gradtool: interrupted")
        assert process.communicate(timeout=60)[0] == b""
    os.close(ours)
    assert process.returncode == 130
    assert b"Traceback" not in said


def test_without_a_terminal_there_is_no_progress(huge: str) -> None:
    with started("inspect", huge, stderr=subprocess.PIPE) as process:
        time.sleep(3.0)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (130, b"", b"gradtool: interrupted\n")


def on_terminal(*args: str, env: dict[str, str] | None = None) -> str:
    """What gradtool writes to a terminal."""
    ours, theirs = pty.openpty()
    subprocess.run(
        [*GRADTOOL, *args], check=True, stdout=theirs, env={**ENVIRONMENT, **(env or {})}
    )
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    return shown


def test_colours_follow_the_terminal_no_color_and_the_option(dump: str) -> None:
    assert "\x1b[1m" in on_terminal("inspect", dump)
    assert "\x1b" not in on_terminal("inspect", dump, env={"NO_COLOR": "1"})
    assert "\x1b" not in on_terminal("inspect", dump, env={"TERM": "dumb"})
    assert "\x1b" not in on_terminal("inspect", dump, "--color", "never")
    assert "\x1b" not in run("inspect", dump).stdout
    assert "\x1b[1m" in run("inspect", dump, "--color", "always", env={"NO_COLOR": "1"}).stdout


def test_the_version_is_the_package_s() -> None:
    result = run("--version")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"gradtool {gradtool.__version__}\n"


@pytest.mark.parametrize("args", [[], ["-h"], ["--help"], ["inspect", "-h"]])
def test_help_goes_to_stdout(args: list[str]) -> None:
    result = run(*args)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage: gradtool")


def test_the_shell_completes_options() -> None:
    environment = {
        "_GRADTOOL_COMPLETE": "complete_bash",
        "COMP_WORDS": "gradtool inspect --raw-",
        "COMP_CWORD": "2",
    }
    assert run(env=environment).stdout.split() == ["--raw-dtype"]


RUN_AND_LIST = """
import runpy, sys
foreign = sys.argv.pop(1)
sys.argv[0] = "gradtool"
try:
    {before}
    runpy.run_module("gradtool", run_name="__main__")
except SystemExit:
    pass
print(*sorted(set(foreign.split(",")) & set(sys.modules)))
"""


def loaded(foreign: str, *args: str, before: str = "pass") -> list[str]:
    """Which of the modules `foreign` are loaded once gradtool has run."""
    return run_python(RUN_AND_LIST.format(before=before), foreign, *args).splitlines()[-1].split()


def test_inspect_loads_no_framework(dump: str) -> None:
    assert loaded("torch,jax,mlx,pandas,pickle5", "inspect", dump) == []


def test_that_check_can_fail(dump: str) -> None:
    pytest.importorskip("torch")
    assert loaded("torch,jax", "inspect", dump, before="import torch") == ["torch"]


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_help_and_version_load_nothing_heavy(option: str) -> None:
    assert loaded("numpy,ml_dtypes,safetensors,rich.table,pydantic", option) == []
