"""Killed at any moment, or without room, `dump_gradients` leaves the old dump or the new one."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from forks import PYTHON, Server
from halved import workspaces
from nobody import as_nobody, give
from safetensors import safe_open
from safetensors.torch import load_file
from torch import ones

import gradtool
from gradtool.errors import FileAccessError
from gradtool.torch import dump_gradients

RUNS = 100 * int(os.environ.get("GRADTOOL_TEST_KILLS", "1"))
FAIR_SHARE = RUNS // 20
NBYTES = 3 << 20
LATEST = 4
"""Dumps, in lengths of one, before a process that dumps in a loop is killed."""

SERVER = f"""
import json, os, resource, sys, time
import torch
from gradtool.errors import GradtoolError
from gradtool.torch import dump_gradients

def dump(path, version):
    made = torch.full(({NBYTES} // 16,), float(version), dtype=torch.float64)
    parts = [made.clone(), made.to(torch.float32), made.to(torch.bfloat16).reshape(-1, 8).T]
    dump_gradients([(f"w{{i}}", part) for i, part in enumerate(parts)], path, step=version)

def child(path, version, last, fsize, says):
    if fsize is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fsize, fsize))
    try:
        while version <= last:
            dump(path, version)
            os.write(says, b"%d\\n" % version)
            version += 1
    except GradtoolError as error:
        os.write(says, f"{{type(error).__name__}}: {{error}}\\n".encode())

def alone():
    while len(os.listdir(f"/proc/{{os.getpid()}}/task")) > 1:
        time.sleep(0.001)

for line in sys.stdin:
    asked = json.loads(line)
    if os.path.isdir("/proc"):
        alone()
    heard, says = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            child(asked["path"], asked["version"], asked["last"], asked.get("fsize"), says)
        finally:
            os._exit(0)
    os.close(says)
    if asked["delay"] is not None:
        time.sleep(asked["delay"])
        os.kill(pid, {int(signal.SIGKILL)})
    _, status = os.waitpid(pid, 0)
    with open(heard) as stream:
        said = stream.read()
    print(json.dumps({{"said": said.splitlines(), "code": os.waitstatus_to_exitcode(status)}}))
    sys.stdout.flush()
"""


class Dumper(Server):
    """The process that dumps, having loaded torch. `within` is a command that starts it."""

    def __init__(self, within: Sequence[str] = ()) -> None:
        super().__init__([*within, *PYTHON, "-c", SERVER])

    def run(
        self, path: Path, version: int, last: int, delay: float | None = None, **limits: int
    ) -> tuple[list[str], int]:
        """What was said, a line for each dump that was done, and how it ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"path": str(path), "version": version, "last": last, "delay": delay, **limits}
        self._process.stdin.write(f"{json.dumps(asked)}\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer["said"], answer["code"]


@pytest.fixture(scope="module")
def dumper() -> Iterator[Dumper]:
    with Dumper() as started:
        yield started


def version_at(path: Path) -> int:
    """The one version of which all of a dump is, as the reference reader reads it."""
    with safe_open(path, "pt") as opened:
        version = int(opened.metadata()["gradtool.step"])
    loaded = load_file(path)
    assert sorted(loaded) == ["w0", "w1", "w2"]
    assert sum(tensor.numel() for tensor in loaded.values()) == 3 * NBYTES // 16
    for tensor in loaded.values():
        assert bool((tensor == ones(1).mul(version).to(tensor.dtype)).all())
    return version


def test_killed_at_any_moment_a_dump_leaves_a_whole_one_and_loses_none_that_was_done(
    dumper: Dumper, tmp_path: Path
) -> None:
    path = tmp_path / "dump.safetensors"
    chance, counts, version = random.Random(0), Counter[str](), 0
    dumper.run(path, 0, 0)  # when torch is loaded
    started = time.perf_counter()
    assert dumper.run(path, 0, 9)[0] == [*map(str, range(10))]
    duration = (time.perf_counter() - started) / 10
    for _ in range(RUNS):
        before = version_at(path)
        delay = chance.uniform(0.0, LATEST * duration)
        said, code = dumper.run(path, before + 1, before + 1000, delay)
        assert code == -signal.SIGKILL
        done = int(said[-1]) if said else before
        version = version_at(path)
        # In place before it was said: that is the only doubt there may be.
        assert version in (done, done + 1)
        left = workspaces(tmp_path)
        assert sorted(os.listdir(tmp_path)) == sorted([*left, path.name])
        assert len(left) <= 1
        counts["leftovers" if left else "none left"] += 1
        counts["some done" if said else "none done"] += 1
    shown = f"{RUNS} kills, {dict(sorted(counts.items()))}; a dump takes {duration * 1e3:.0f} ms"
    print(f"\n{shown}")  # noqa: T201 - to be shown
    # Else it was no test.
    assert min(counts[each] for each in ("leftovers", "some done", "none done")) >= FAIR_SHARE
    assert dumper.run(path, version + 1, version + 1) == ([str(version + 1)], 0)
    assert (version_at(path), os.listdir(tmp_path)) == (version + 1, [path.name])


def test_what_a_killed_dump_left_is_no_dump_and_is_cleared_by_that_of_another_file(
    dumper: Dumper, tmp_path: Path
) -> None:
    delay = 0.001
    while not workspaces(tmp_path):
        dumper.run(tmp_path / "a.safetensors", 0, 1000, delay)
        delay *= 1.2
        assert delay < 10.0
    dumper.run(tmp_path / "b.safetensors", 3, 3)
    assert workspaces(tmp_path) == []
    assert version_at(tmp_path / "b.safetensors") == 3


@pytest.mark.parametrize("limit", [0, 1, 4096, NBYTES // 2, NBYTES])
@pytest.mark.parametrize("exists", [False, True])
def test_a_file_that_may_not_grow_so_long_is_an_error_and_the_old_one_stays(
    limit: int, dumper: Dumper, tmp_path: Path, *, exists: bool
) -> None:
    path = tmp_path / "dump.safetensors"
    if exists:
        dumper.run(path, 1, 1)
    before = sorted(os.listdir(tmp_path))
    (error,), code = dumper.run(path, 2, 2, fsize=limit // 2)
    why = f"FileAccessError: {path}: cannot be written: {os.strerror(errno.EFBIG)}"
    assert (error, code, sorted(os.listdir(tmp_path))) == (why, 0, before)
    assert not exists or version_at(path) == 1


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Dumper, Path, Path]]:
    """A process that sees a small disk, where it sees it, and where others do."""
    unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    mount = f"mount -t tmpfs -o size=16m,nr_inodes=64 tmpfs '{tmp_path}'"
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare here, to mount a small disk with")
    tried = subprocess.run([*unshare, "sh", "-c", mount], check=False, capture_output=True)
    if tried.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {tried.stderr.decode().strip()}")
    with Dumper([*unshare, "sh", "-c", f'{mount} && exec "$@"', "sh"]) as started:
        started.run(tmp_path / "dump", 1, 1)
        yield started, tmp_path, Path(f"/proc/{started.pid}/root{tmp_path}")


def test_a_full_disk_is_an_error_and_the_old_dump_stays(disk: tuple[Dumper, Path, Path]) -> None:
    dumper, seen_at, folder = disk
    assert version_at(folder / "dump") == 1
    for free in (0, 4096, NBYTES // 2, NBYTES // 4 * 3):
        status = os.statvfs(folder)
        (folder / "ballast").write_bytes(bytes(status.f_bavail * status.f_frsize - free))
        (error,), _ = dumper.run(seen_at / "dump", 2, 2)
        why = f"{seen_at / 'dump'}: cannot be written: {os.strerror(errno.ENOSPC)}: "
        assert error.startswith(f"FileAccessError: {why}")
        assert error.endswith(f" are needed, {free:,} are free")
        assert sorted(os.listdir(folder)) == ["ballast", "dump"]
        assert version_at(folder / "dump") == 1
        (folder / "ballast").unlink()
    assert dumper.run(seen_at / "dump", 2, 2)[0] == ["2"]
    assert version_at(folder / "dump") == 2


def test_a_folder_that_may_not_be_written_is_an_error_and_the_old_dump_stays(anyones: Path) -> None:
    folder = anyones / "read-only"
    folder.mkdir()
    path = folder / "dump.safetensors"
    dump_gradients([("w", ones(3))], path)
    folder.chmod(0o555)
    give(folder)
    with as_nobody(), pytest.raises(FileAccessError, match="cannot be written"):
        dump_gradients([("w", ones(5))], path)
    assert os.listdir(folder) == [path.name]
    assert gradtool.measure(path).tensors[0].spec.shape == (3,)
