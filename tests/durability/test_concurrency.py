"""Two clips of one target meet at its lock; nobody follows or destroys what only looks like one."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from forks import ENVIRONMENT, PYTHON, Forks, Run
from halved import HALVE, OPTIONS, QUARTER, Halved, content, remove, workspaces
from nobody import NOT_ROOT, give

import gradtool
from gradtool.storage.workspace import Workspace

ROUNDS = 30


def check_loser(run: Run, target: Path) -> str:
    """Who lost says why, with the code for it."""
    assert run.code in (2, 3), run
    assert run.out == ""
    assert str(target) in run.error
    return run.error.removeprefix(f"gradtool: error: {target}").lstrip(": ")


@pytest.mark.parametrize("mode", ["new file", "forced", "in place", "directory"])
def test_two_clips_of_one_target_end_with_one_result_and_one_clear_error(
    mode: str, forks: Forks, large_file: Halved, large_directory: Halved, tmp_path: Path
) -> None:
    dump = large_directory if mode == "directory" else large_file
    source = dump.write(tmp_path / "source")
    target = source if mode == "in place" else tmp_path / "out"
    where = ["--in-place"] if mode == "in place" else ["-o", target]
    where += ["--force"] if mode == "forced" else []
    outcomes: Counter[str] = Counter()
    for _ in range(ROUNDS):
        if mode == "in place":
            dump.write(source)
        else:
            remove(target)
        runs = forks.together([["clip", source, *where, *how] for how in (HALVE, QUARTER)])
        state = dump.state(target)
        assert workspaces(tmp_path) == []
        assert sorted(os.listdir(tmp_path)) == sorted({"source", target.name})
        losers = [run for run in runs if run.code != 0]
        for run in losers:
            outcomes[check_loser(run, target)] += 1
        if losers:
            assert len(losers) == 1, runs
            assert state == ("new" if runs[0].code == 0 else "quarter")
        else:
            # One had ended before the other began to read or, where it may overwrite, to write.
            assert mode in ("forced", "in place")
            assert state in (["eighth"] if mode == "in place" else ["new", "quarter"])
            outcomes["one after the other"] += 1
    print(f"\n{mode}: {dict(outcomes)}")  # noqa: T201 - to be shown in reports
    # Else it was no test.
    assert outcomes["one after the other"] < ROUNDS * 0.9


def test_clips_of_different_targets_in_one_directory_do_not_disturb_each_other(
    forks: Forks, small_file: Halved, tmp_path: Path
) -> None:
    source = small_file.write(tmp_path / "source")
    targets = [tmp_path / f"out-{i}" for i in range(6)]
    errors: Counter[str] = Counter()
    for _ in range(ROUNDS):
        (tmp_path / ".gradtool-0123456789abcdef.tmp").mkdir()
        runs = forks.together([["clip", source, "-o", target, *HALVE] for target in targets])
        errors.update(run.err for run in runs if run.code != 0)
        for target, run in zip(targets, runs, strict=True):
            assert small_file.state(target) == ("new" if run.code == 0 else "absent")
        assert workspaces(tmp_path) == []
        for target in targets:
            remove(target)
    assert errors == {}


STRESS = """
import os, sys
from gradtool.storage.sink import create_sink
from gradtool.storage.workspace import Workspace
directory, name = sys.argv[1:]
for _ in range(400):
    with Workspace(os.path.join(directory, name), name) as workspace:
        with create_sink("data", dir_fd=workspace.directory):
            pass
        workspace.commit("data", overwrite=True)
"""


def test_workspaces_of_different_targets_in_one_directory_are_never_busy(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [*PYTHON, "-c", STRESS, str(tmp_path), f"out-{i}"],
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(4)
    ]
    said = [process.communicate(timeout=60)[1] for process in started]
    assert said == [""] * len(started)
    assert workspaces(tmp_path) == []


@pytest.fixture
def source(small_file: Halved, tmp_path: Path) -> Path:
    return small_file.write(tmp_path / "a.safetensors")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Where what becomes `tmp_path / "out"` is built."""
    return Path(Workspace(str(tmp_path / "out"), "out").path)


def begin(workspace: Path) -> None:
    """What there is of a workspace when building begins."""
    (workspace / "built").mkdir(parents=True)
    (workspace / "lock").touch()


def test_a_target_that_a_live_process_has_locked_is_busy(
    source: Path, workspace: Path, forks: Forks, tmp_path: Path
) -> None:
    begin(workspace)
    (workspace / "built" / "half").write_text("somebody's work")
    lock = os.open(workspace / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    out = tmp_path / "out"
    with pytest.raises(gradtool.TargetBusyError, match="another gradtool is writing it") as caught:
        gradtool.clip(source, out, **OPTIONS)
    assert f"if none is running, remove {workspace}" in str(caught.value)
    run = forks.run("clip", source, "-o", out, *HALVE)
    assert (run.code, run.out) == (3, "")
    assert str(workspace) in run.error
    # Nor does a run for another target clear it.
    assert forks.run("clip", source, "-o", tmp_path / "other", *HALVE).code == 0
    assert (workspace / "built" / "half").read_text() == "somebody's work"
    os.close(lock)
    gradtool.clip(source, out, **OPTIONS)
    assert not workspace.exists()


def test_a_stopped_process_keeps_its_target_until_it_goes_on(
    forks: Forks, large_file: Halved, tmp_path: Path
) -> None:
    source, out = large_file.write(tmp_path / "a.safetensors"), tmp_path / "out"
    command = [*PYTHON, "-m", "gradtool", "clip", str(source), "-o", str(out), *HALVE]
    for _ in range(10):
        with subprocess.Popen(command, env=ENVIRONMENT) as process:
            # What is built in comes after the lock: before it has that, a workspace is nobody's.
            while not [*tmp_path.glob(".gradtool-*/built")] and process.poll() is None:
                pass
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.05)
            stopped = bool(workspaces(tmp_path)) and not out.exists()
            run = forks.run("clip", source, "-o", out, *QUARTER)
            process.send_signal(signal.SIGCONT)
            assert process.wait(60) == 0
        assert large_file.state(out) == "new"
        assert workspaces(tmp_path) == []
        if stopped:
            break
        remove(out)
    assert stopped
    assert run.code == 3
    assert "another gradtool is writing it" in run.error


@pytest.mark.parametrize("own", [True, False], ids=["of the same target", "of another"])
def test_an_unlocked_leftover_is_cleared_and_what_its_links_name_is_not(
    own: bool, source: Path, workspace: Path, small_file: Halved, forks: Forks, tmp_path: Path
) -> None:
    left = workspace if own else tmp_path / ".gradtool-0123456789abcdef.tmp"
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    begin(left)
    built = left / "built" / "run"
    (built / "inner").mkdir(parents=True)
    (built / "shard").write_bytes(b"half")
    (built / "link").symlink_to(precious)
    (built / "inner" / "link").symlink_to(precious / "file")
    os.link(precious / "file", built / "second name")
    os.mkfifo(built / "fifo")
    assert forks.run("clip", source, "-o", tmp_path / "out", *HALVE).code == 0
    assert workspaces(tmp_path) == []
    assert small_file.state(tmp_path / "out") == "new"
    assert content(precious) == {"file": b"kept"}


def test_a_leftover_with_read_only_directories_in_it_is_cleared(
    anyones: Path, small_file: Halved, forks: Forks
) -> None:
    source, out = small_file.write(anyones / "a.safetensors"), anyones / "out"
    left = Path(Workspace(str(out), "out").path)
    begin(left)
    built = left / "built" / "run"
    (built / "inner").mkdir(parents=True)
    (built / "inner" / "file").write_bytes(b"half")
    give(anyones)
    (built / "inner").chmod(0o555)
    built.chmod(0o555)
    run = forks.run("clip", source, "-o", out, *HALVE, **NOT_ROOT)
    assert (run.code, run.err) == (0, "")
    assert workspaces(anyones) == []
