"""The contract of the command line: exit codes, streams, signals, what is loaded."""

import json
import os
import pty
import re
import resource
import shlex
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

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
from pickle_parts import archive, named, tensor
from safetensors.numpy import save_file

import gradtool


@pytest.fixture
def dump(tmp_path: Path) -> str:
    path = str(tmp_path / "grads.safetensors")
    save_file({"w": np.array([3.0, 4.0], np.float32)}, path)
    return path


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


@pytest.mark.parametrize(
    ("args", "command"),
    [
        (["--nonsense"], "gradtool"),
        (["nonsense"], "gradtool"),
        (["inspect"], "gradtool inspect"),
        (["clip", "DUMP", "--nonsense"], "gradtool clip"),
        (["check", "DUMP", "--threads", "0"], "gradtool check"),
        (["baseline", "nonsense"], "gradtool baseline"),
        (["baseline", "save"], "gradtool baseline save"),
    ],
)
def test_a_usage_error_says_where_to_look_it_up(args: list[str], command: str, dump: str) -> None:
    result = run(*(dump if arg == "DUMP" else arg for arg in args))
    assert result.returncode == 2
    assert result.stderr.splitlines()[1:] == [f"gradtool: try '{command} --help'"]
    asked = run(*command.split()[1:], "--help")
    assert asked.returncode == 0
    assert f"Usage: {command} " in asked.stdout


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


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A directory of two shards and their index."""
    folder = tmp_path / "run"
    folder.mkdir()
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for name, file in names.items():
        save_file({name: np.ones(1, np.float32)}, str(folder / file))
    index = {"metadata": {}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("inspected", ["", "model.safetensors.index.json", "*.index.json"])
@pytest.mark.parametrize("way", [None, "symlink_to", "hardlink_to"])
@pytest.mark.parametrize(
    "file", ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
)
def test_a_report_never_replaces_what_it_is_about(
    inspected: str, way: str | None, file: str, shards: Path, tmp_path: Path
) -> None:
    output = shards / file
    if way is not None:
        output = tmp_path / "report.json"
        getattr(output, way)(shards / file)
    before = content_of(tmp_path)
    result = run("inspect", str(shards / inspected), "-o", str(output))
    assert (result.returncode, result.stdout) == (2, "")
    assert len(error_lines(result)) == 1
    assert content_of(tmp_path) == before


def test_that_is_known_before_anything_is_read(huge: str) -> None:
    result = run("inspect", huge, "-o", huge)
    assert (result.returncode, result.stdout) == (2, "")


def test_a_report_replaces_an_older_one(dump: str, tmp_path: Path) -> None:
    output, link = tmp_path / "report.json", tmp_path / "link.json"
    output.write_text("old" * 10_000)
    output.chmod(0o640)
    link.symlink_to(output)
    assert run("inspect", dump, "-f", "json", "-o", str(link)).returncode == 0
    assert link.is_symlink()
    assert output.stat().st_mode & 0o777 == 0o640
    assert json.loads(output.read_text())["reports"][0]["path"] == dump
    assert set(os.listdir(tmp_path)) == {"report.json", "link.json", Path(dump).name}


def test_a_report_that_finds_no_room_leaves_the_older_one(dump: str, tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    output.write_text("old")
    result = subprocess.run(
        [*GRADTOOL, "inspect", dump, "-o", str(output)],
        check=False,
        capture_output=True,
        env={**ENVIRONMENT, "PYTHONDONTWRITEBYTECODE": "1"},
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)),
    )
    assert (result.returncode, result.stdout) == (3, "")
    assert "cannot be written" in error_lines(result)[0]
    assert output.read_text() == "old"
    assert set(os.listdir(tmp_path)) == {"report.json", Path(dump).name}


@pytest.mark.parametrize("output", ["-", "/dev/stdout"])
def test_stdout_has_names(output: str, dump: str) -> None:
    assert run("inspect", dump, "-o", output).stdout == run("inspect", dump).stdout


def test_an_output_may_be_a_pipe_with_a_name(dump: str, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with started("inspect", dump, "-o", str(fifo), stderr=subprocess.PIPE):
        assert "L2 norm" in fifo.read_text()
    assert fifo.is_fifo()


def shell(command: str, dump: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command.replace("gradtool", shlex.join(GRADTOOL)), "bash", dump],
        capture_output=True,
        check=False,
        env=ENVIRONMENT,
        text=True,
        timeout=60,
    )


WRITERS = ["gradtool", "gradtool --help", "gradtool --version", "gradtool inspect -h"]
WRITERS += ["gradtool baseline --help", "gradtool baseline save -h"]
WRITERS += ['gradtool inspect "$1"', 'gradtool inspect "$1" -f json']


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("stdout", ["/dev/full", "&-"])
def test_a_stdout_that_takes_nothing_exits_3(writer: str, stdout: str, dump: str) -> None:
    result = shell(f"{writer} >{stdout}", dump)
    assert (result.returncode, result.stdout) == (3, "")
    assert len(error_lines(result)) == len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("typed", "meant"), [("inspec", "inspect"), ("chek", "check"), ("baseline sav", "save")]
)
def test_of_an_unknown_command_the_nearest_is_named(typed: str, meant: str) -> None:
    result = run(*typed.split())
    assert result.returncode == 2
    assert f"Did you mean {meant!r}" in error_lines(result)[0]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_reader_that_is_gone_is_no_error(writer: str, dump: str) -> None:
    reader, pipe = os.pipe()
    os.close(reader)
    gone = subprocess.run(
        [*GRADTOOL, *(word.replace("$1", dump) for word in shlex.split(writer)[1:])],
        check=False,
        stdout=pipe,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    os.close(pipe)
    assert (gone.returncode, gone.stderr) == (0, b"")


@pytest.mark.parametrize("stderr", ["&-", "/dev/full"])
@pytest.mark.parametrize(
    ("command", "exit_code"),
    [
        ('gradtool inspect "$1.missing"', 3),
        ("gradtool --nonsense", 2),
        ('gradtool inspect "$1" -o "$1"', 2),
        ('gradtool inspect "$1.missing" >&-', 3),
    ],
)
def test_errors_that_nobody_hears_never_get_into_stdout(
    command: str, exit_code: int, stderr: str, dump: str
) -> None:
    result = shell(f"{command} 2>{stderr}", dump)
    assert (result.returncode, result.stdout, result.stderr) == (exit_code, "", "")


def test_with_every_stream_closed_a_report_is_written(dump: str, tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    result = shell(
        f'gradtool inspect "$1" -f json -o {shlex.quote(str(output))} <&- >&- 2>&-', dump
    )
    assert result.returncode == 0
    assert json.loads(output.read_text())["reports"][0]["path"] == dump


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["inspect", ""], "PATH is empty"),
        (["inspect", "DUMP", "-o", ""], "it is empty; give a file"),
        (["inspect", "DUMP", "-g", "9" * 5000], "5,000 digits"),
    ],
)
def test_empty_and_endless_arguments_are_answered(args: list[str], said: str, dump: str) -> None:
    result = run(*(dump if arg == "DUMP" else arg for arg in args))
    assert (result.returncode, result.stdout) == (2, "")
    assert said in error_lines(result)[0]


def test_a_name_of_any_length_leaves_an_error_one_readable_line() -> None:
    name = "begin" + "n" * 1_000_000 + "end"
    error = str(gradtool.CorruptFileError("a.pt", "is cut", tensor=name))
    assert len(error) < 300
    assert "'begin" in error
    assert "end': is cut" in error
    assert "…" not in str(gradtool.CorruptFileError("a.pt", "is cut", tensor="n" * 200))


def test_help_promises_no_more_than_there_is() -> None:
    assert "gradients saved to disk, clipped ones written back, verdicts for CI" in " ".join(
        run("--help").stdout.split()
    )


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
        wait_for_reading(process, huge)
        time.sleep(2.0)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (130, b"", b"gradtool: interrupted\n")


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


def test_inspect_loads_no_framework(dump: str) -> None:
    assert loaded("torch,jax,mlx,pandas,pickle5", "inspect", dump) == []


def test_that_check_can_fail(dump: str) -> None:
    pytest.importorskip("torch")
    assert loaded("torch,jax", "inspect", dump, before="import torch") == ["torch"]


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_help_and_version_load_nothing_heavy(option: str) -> None:
    assert loaded("numpy,ml_dtypes,safetensors,rich.table,pydantic", option) == []


@pytest.fixture
def layers(tmp_path: Path) -> str:
    path = str(tmp_path / "layers.safetensors")
    tensors = {
        "grads.h.10": np.array([1.0, 1.0], np.float32),
        "grads.h.9": np.array([3.0, 4.0], np.float32),
        "model.w": np.array([np.nan, 0.5], np.float32),
        "model.b": np.array([4.5, np.inf], np.float32),
    }
    header, data = {}, b""
    for name, array in tensors.items():  # safetensors' own writer sorts names
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": "F32", "shape": [2], "data_offsets": offsets}
        data += array.tobytes()
    encoded = json.dumps(header).encode()
    Path(path).write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
    return path


def inspected(*args: str) -> dict[str, Any]:
    result = run("inspect", *args, "-f", "json")
    assert (result.returncode, result.stderr) == (0, "")
    report: dict[str, Any] = json.loads(result.stdout)["reports"][0]
    return report


def names_in(report: dict[str, Any]) -> list[str]:
    return [entry["name"].rpartition(".")[2] for entry in report["tensors"]]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--sort", "file"], ["10", "9", "w", "b"]),
        (["--sort", "name"], ["9", "10", "b", "w"]),
        ([], ["9", "10", "b", "w"]),
        (["--sort", "norm"], ["w", "b", "9", "10"]),
        (["--sort", "max"], ["b", "9", "10", "w"]),
        (["--sort", "nonfinite"], ["w", "b", "10", "9"]),
        (["--sort", "file", "--top", "2"], ["10", "9"]),
        (["-i", "*.h.*"], ["9", "10"]),
        (["--include", "*.w", "--include", "*.b"], ["b", "w"]),
        (["-x", "*.h.*"], ["b", "w"]),
        (["--exclude", "*.w", "--exclude", "*.9"], ["10", "b"]),
        (["-i", "*.h.*", "-x", "*.9"], ["10"]),
        (["--section", "grads"], ["9", "10"]),
        (["--section", "model"], ["b", "w"]),
    ],
)
def test_options_choose_and_sort_tensors(options: list[str], names: list[str], layers: str) -> None:
    assert names_in(inspected(layers, *options)) == names


@pytest.mark.parametrize(
    ("options", "where", "value"),
    [
        ([], ("total", "norm"), 5.0),
        (["--loss-scale", "2"], ("total", "norm"), 2.5),
        (["--loss-scale", "2"], ("loss_scale",), 2.0),
        (["-p", "1"], ("total", "norm"), 7.0),
        (["--norm-type", "inf"], ("norm_type",), "Infinity"),
        (["--max-norm", "1", "--eps", "5"], ("clip",), {"max_norm": 1, "eps": 5, "clip_coef": 0.1}),
        (["--max-norm", "1"], ("clip", "eps"), 1e-6),
        (["--max-norm", "1"], ("clip", "clip_coef"), 1.0 / (5.0 + 1e-6)),
        ([], ("clip",), None),
        (["-g", "1"], ("groups", 0, "name"), "w"),
        (["--threads", "1"], ("total", "norm"), 5.0),
        (["--threads", "64"], ("total", "norm"), 5.0),
        ([], ("backend",), "numpy"),
        (["--backend", "torch", "--device", "cpu"], ("backend",), "torch"),
        (["--device", "cpu", "--device-memory", "64MiB"], ("total", "norm"), 5.0),
        (["--verify"], ("total", "norm"), 5.0),
    ],
)
def test_options_reach_the_figures(
    options: list[str], where: tuple[str | int, ...], value: object, dump: str
) -> None:
    found: Any = inspected(dump, *options)
    for key in where:
        found = found[key]
    assert found == value


def test_verify_checks_checksums(tmp_path: Path) -> None:
    path = tmp_path / "grads.pt"
    stored = np.full(4, 3.0, np.float32).tobytes()
    content = archive(path, named(tensor()), {"0": stored}).read_bytes()
    assert content.count(stored) == 1
    path.write_bytes(content.replace(np.float32(3.0).tobytes(), np.float32(2.0).tobytes(), 1))
    assert run("inspect", str(path)).returncode == 0
    result = run("inspect", str(path), "--verify")
    assert (result.returncode, result.stdout) == (3, "")
    assert "CRC-32" in error_lines(result)[0]


def test_raw_dtype_says_what_raw_bytes_are(tmp_path: Path) -> None:
    path = tmp_path / "grads.npy"
    np.save(path, np.array([0x4040, 0x4080], np.uint16).view("V2"))
    assert inspected(str(path), "--raw-dtype", "BF16")["total"]["norm"] == 5.0
    assert run("inspect", str(path)).returncode == 3


def test_quiet_leaves_totals_and_findings(layers: str) -> None:
    for option in ("-q", "--quiet"):
        text = run("inspect", layers, option, "--section", "model").stdout
        assert "shape" not in text
        assert "L2 norm" in text
        assert "2 of 2 tensors, in natural order of names" in text


def test_all_lists_every_tensor_and_top_some(tmp_path: Path) -> None:
    path = str(tmp_path / "many.safetensors")
    save_file({f"t{at}": np.ones(1, np.float32) for at in range(60)}, path)

    def rows(*options: str) -> int:
        lines = run("inspect", path, *options).stdout.splitlines()
        return sum(line.startswith("t") and line[1].isdigit() for line in lines)

    assert (rows(), rows("--all"), rows("--top", "50"), rows("--top", "3")) == (40, 60, 50, 3)


def test_two_stars_match_folders_in_folders(tmp_path: Path) -> None:
    paths = [tmp_path / "1.safetensors", tmp_path / "a" / "b" / "2.safetensors"]
    paths[1].parent.mkdir(parents=True)
    for path in paths:
        save_file({"w": np.ones(1, np.float32)}, str(path))
    result = run("inspect", str(tmp_path / "**" / "*.safetensors"), "-f", "json")
    found = [report["path"] for report in json.loads(result.stdout)["reports"]]
    assert found == list(map(str, paths))


def test_names_are_cut_to_the_terminal_and_nowhere_else(tmp_path: Path) -> None:
    path, name = str(tmp_path / "grads.safetensors"), "n" * 120
    save_file({name: np.ones(1, np.float32)}, path)
    assert name not in on_terminal("inspect", path, columns=80)
    assert name in on_terminal("inspect", path, columns=200)
    assert name in run("inspect", path).stdout
    assert name in run("inspect", path, env={"COLUMNS": "80"}).stdout


def test_what_an_encoding_lacks_is_escaped(tmp_path: Path) -> None:
    path = str(tmp_path / "grads.safetensors")
    save_file({"gr\xe4d": np.ones(1, np.float32)}, path)
    assert "gr\\xe4d" in run("inspect", path, env={"PYTHONIOENCODING": "ascii"}).stdout
    assert "gr\xe4d" in run("inspect", path, env={"PYTHONIOENCODING": "utf-8"}).stdout


def progress_of(path: str, *options: str) -> bytes:
    """What a terminal is shown of long work, once there are figures."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    with started("inspect", path, *options, stderr=theirs) as process:
        os.close(theirs)
        shown = read_until(ours, b"/100.0 GB")
        process.send_signal(signal.SIGINT)
        shown += read_until(ours, b"interrupted")
    os.close(ours)
    return shown


COLOURS = re.compile(rb"\x1b\[[0-9;]*3[0-9]")


def test_colours_of_progress_follow_the_option(huge: str) -> None:
    assert COLOURS.search(progress_of(huge))
    assert not COLOURS.search(progress_of(huge, "--color", "never"))


@pytest.mark.parametrize("option", ["--no-progress", "--quiet"])
def test_progress_can_be_turned_off(option: str, huge: str) -> None:
    ours, theirs = pty.openpty()
    with started("inspect", huge, option, stderr=theirs) as process:
        os.close(theirs)
        wait_for_reading(process, huge)
        time.sleep(2.0)
        process.send_signal(signal.SIGINT)
        shown = read_until(ours, b"interrupted")
    os.close(ours)
    assert shown.strip() == b"gradtool: interrupted"


def test_progress_shows_the_name_of_a_file_as_it_is(huge: str) -> None:
    marked = Path(huge).with_name("[red]grads")
    Path(huge).rename(marked)
    assert b"[red]grads" in progress_of(str(marked))
