"""Killed at any moment, a clip leaves the old bytes or the new ones, and nothing in its way."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from forks import ENVIRONMENT, PYTHON, Forks, Run
from halved import HALVE, Halved, content, remove, workspaces

TERMINATED = 143
RUNS = 100 * int(os.environ.get("GRADTOOL_TEST_KILLS", "1"))
FAIR_SHARE = RUNS // 20

MODES = ["new file", "in place", "directory"]
SIGNALS = [signal.SIGKILL, signal.SIGTERM]


@dataclass
class Field:
    """Where clips are killed: a folder with a source, a target and a file of somebody else."""

    mode: str
    dump: Halved
    folder: Path
    before: str = field(init=False)
    source: Path = field(init=False)

    def __post_init__(self) -> None:
        self.before = "old" if self.mode == "in place" else "absent"
        self.source = self.folder / ("run" if self.mode == "directory" else "a.safetensors")
        self.dump.write(self.source)
        (self.folder / "bystander.safetensors").write_bytes(b"untouched")

    def target(self, number: int) -> Path:
        """Two in turn, so that leftovers of another target are met too."""
        return self.source if self.mode == "in place" else self.folder / f"out-{number % 2}"

    def args(self, number: int) -> list[str]:
        where = ["--in-place"] if self.mode == "in place" else ["-o", str(self.target(number))]
        return ["clip", str(self.source), *where, *HALVE]

    def restore(self, number: int) -> None:
        """Make it as if nothing had been clipped."""
        if self.mode == "in place":
            self.dump.write(self.source)
        else:
            remove(self.target(number))

    def check(self, number: int) -> tuple[str, int]:
        """What is at the target, and how many workspaces there are; nothing else is there."""
        target = self.target(number)
        state = self.dump.state(target)
        assert state in (self.before, "new")
        left = workspaces(self.folder)
        # A target that is not "in turn" was removed when that run was over.
        expected = {"bystander.safetensors", self.source.name, *left}
        expected |= {target.name} if state == "new" else set()
        assert set(content_names(self.folder)) == expected
        assert (self.folder / "bystander.safetensors").read_bytes() == b"untouched"
        return state, len(left)


def content_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.fixture
def ground(
    mode: str, large_file: Halved, large_directory: Halved, tmp_path: Path
) -> Iterator[Field]:
    folder = tmp_path / "field"
    folder.mkdir()
    yield Field(mode, large_directory if mode == "directory" else large_file, folder)
    remove(folder)


LONGER = 1.03
SHORTER = LONGER**-4


class Delays:
    """Moments spread over a run and a while after it, so that one run in five ends before.

    They follow the machine: as long as too few runs end before, moments get later.
    """

    def __init__(self, forks: Forks, ground: Field) -> None:
        self._random = random.Random(0)
        durations = []
        for number in range(7):
            run = forks.run(*ground.args(number))
            assert (run.code, run.err) == (0, "")
            assert ground.check(number) == ("new", 0)
            ground.restore(number)
            durations.append(run.seconds)
        self.latest = 1.25 * statistics.median(durations)

    def note(self, run: Run) -> None:
        self.latest *= LONGER if run.alive else SHORTER

    def next(self) -> float:
        return self._random.uniform(0.0, self.latest)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_killed_at_any_moment_a_clip_leaves_the_old_bytes_or_the_new(
    number: signal.Signals, ground: Field, forks: Forks
) -> None:
    delays = Delays(forks, ground)
    counts: Counter[str] = Counter()
    for i in range(RUNS):
        run = forks.killed(number, delays.next(), *ground.args(i))
        state, left = ground.check(i)
        counts[state] += 1
        counts["killed" if run.alive else "ended before"] += 1
        counts["leftovers"] += left
        check_end(run, number, state, left)
        delays.note(run)
        if state == "new":
            ground.restore(i)
    took = f"killed within {delays.latest * 1e3:.0f} ms"
    counted = f"{RUNS} runs, {dict(sorted(counts.items()))}"
    print(f"\n{number.name}, {ground.mode}: {counted}; {took}")  # noqa: T201 - to be shown
    # Else it was no test.
    assert counts["new"] >= FAIR_SHARE
    assert counts[ground.before] >= FAIR_SHARE
    assert number == signal.SIGTERM or counts["leftovers"] >= FAIR_SHARE
    run = forks.run(*ground.args(0))
    assert (run.code, run.err) == (0, "")
    assert ground.check(0) == ("new", 0)
    if ground.mode != "in place":
        assert content(ground.source) == ground.dump.old


def check_end(run: Run, number: signal.Signals, state: str, left: int) -> None:
    """How a killed run ended, what it said, and what it may leave."""
    if not run.alive:
        assert (run.code, run.err, state, left) == (0, "", "new", 0)
    elif number == signal.SIGKILL:
        # The next run clears what one has left, so that there is never more of it.
        assert (run.code in (0, -number)) and left <= 1
    else:
        assert left == 0, run
        # Before and after the work the signal acts as on any process: a shell says 143 too.
        assert run.code in (TERMINATED, -number) or (run.code, state) == (0, "new"), run
        assert run.err == ("gradtool: terminated\n" if run.code == TERMINATED else "")


def leave_a_workspace(forks: Forks, folder: Path, *args: str) -> None:
    """Kill runs until one leaves something."""
    outputs = [Path(out) for option, out in itertools.pairwise(args) if option == "-o"]
    duration = 0.1
    for i in range(100):
        run = forks.killed(signal.SIGKILL, duration * (0.3 + 0.006 * i), *args)
        duration = duration if run.alive else min(duration, run.seconds)
        if workspaces(folder):
            return
        for out in outputs:  # which whatever comes next would refuse to replace, and in no time
            remove(out)
    pytest.fail("no run was killed on the way")


def test_inspect_ignores_what_a_killed_clip_left(
    forks: Forks, large_file: Halved, tmp_path: Path
) -> None:
    source = large_file.write(tmp_path / "a.safetensors")
    args = ["inspect", str(tmp_path), "-f", "json"]
    before = json.loads(forks.run(*args).out)
    leave_a_workspace(forks, tmp_path, "clip", str(source), "-o", f"{tmp_path}/out", *HALVE)
    (left,) = workspaces(tmp_path)
    after = forks.run(*args)
    assert (after.code, after.err) == (0, "")
    assert without_times(json.loads(after.out)) == without_times(before)
    assert left not in forks.run("inspect", str(tmp_path)).out


def without_times(report: object) -> object:
    if isinstance(report, dict):
        return {k: without_times(v) for k, v in report.items() if k != "elapsed_s"}
    return [without_times(item) for item in report] if isinstance(report, list) else report


def test_a_clipped_directory_has_nothing_of_what_a_killed_clip_left_in_it(
    forks: Forks, large_directory: Halved, tmp_path: Path
) -> None:
    source, out = large_directory.write(tmp_path / "run"), tmp_path / "out"
    shard = source / "grads-00001-of-00002.safetensors"
    leave_a_workspace(forks, source, "clip", str(shard), "--in-place", *HALVE)
    large_directory.write(source)
    assert forks.run("clip", source, "-o", out, *HALVE).code == 0
    assert large_directory.state(out) == "new"


@pytest.mark.parametrize("moment", ["while reading", "while writing"])
def test_a_process_of_its_own_ends_at_sigterm_with_143_and_leaves_nothing(
    moment: str, tmp_path: Path
) -> None:
    source = tmp_path / "huge.safetensors"
    size = 2 << 30 if moment == "while writing" else 60 << 30
    entry = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
    header = json.dumps({"w": entry}).encode()
    with source.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    command = [*PYTHON, "-m", "gradtool", "clip", str(source), "-o", f"{tmp_path}/out", *HALVE]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True) as process:
        try:
            deadline = time.monotonic() + 60.0
            while moment == "while writing" and not workspaces(tmp_path):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(1.0 if moment == "while reading" else 0.1)
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, said) == (TERMINATED, "gradtool: terminated\n")
    assert content_names(tmp_path) == [source.name]
