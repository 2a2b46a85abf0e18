"""`trend` of a thousand dumps and more: seen for the first time, seen before, recorded, followed.

    python -m benchmarks.files.trends [--dir DIR] [--runs N] [--idle-s 60]

needs gradtool's `test` extra and 4 GB of disk. See README.md.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.files import peers
from benchmarks.files.dumps import run_path
from benchmarks.files.run import default_directory
from benchmarks.files.runs import (
    KNOWN_STEPS,
    KNOWN_TENSORS,
    LONG_STEPS,
    LONG_TENSORS,
    RECORDED_STEPS,
    known_path,
    long_path,
    recorded_path,
    store_of,
)
from benchmarks.harness.tables import limit
from benchmarks.harness.timing import Contender, Group, show

CHECK, FIRST, UNKEPT = "check", "trend, for the first time", "trend --no-cache"
KNOWN, START = "trend, seen before", "gradtool --version"
BY_FOLDER, BY_GLOB = "trend --last 100, by directory", "trend --last 100, by glob"
RECORDED = "trend of recorded rows"

STARTING_S = 10.0
"""After how long a process that follows a run has shown the steps that are there."""


def first_time(directory: Path) -> Group:
    """A thousand dumps of 1 MB that no store knows, beside `check` of the same."""
    folder, store = run_path(directory), directory / "first.sqlite"
    anew = f"rm -f {shlex.quote(str(store))}; {_command(folder, '--cache', str(store))}"
    contenders = [
        Contender(CHECK, peers.gradtool("check", str(folder), "--isolated", "--no-progress")),
        Contender(FIRST, ["sh", "-c", anew]),
        Contender(UNKEPT, ["sh", "-c", _command(folder, "--no-cache")]),
    ]
    return Group("1,000 dumps of 1 MB, of which nothing is known", folder, contenders)


def seen_before(directory: Path) -> Group:
    """A thousand dumps whose rows are kept."""
    folder = known_path(directory)
    command = _command(folder, "--cache", str(store_of(folder)))
    contenders = [
        Contender(KNOWN, ["sh", "-c", command]),
        Contender(START, peers.gradtool("--version")),
    ]
    title = f"{KNOWN_STEPS:,} dumps of {KNOWN_TENSORS} tensors, seen before"
    return Group(title, store_of(folder), contenders)


def newest(directory: Path) -> Group:
    """The newest steps of a long run whose rows are kept."""
    folder = long_path(directory)
    options = "--last", "100", "--cache", str(store_of(folder))
    contenders = [
        Contender(BY_FOLDER, ["sh", "-c", _command(folder, *options)]),
        Contender(BY_GLOB, ["sh", "-c", _command(folder / "step-*", *options)]),
    ]
    title = f"{LONG_STEPS:,} dumps of {LONG_TENSORS:,} tensors, seen before: the newest 100"
    return Group(title, store_of(folder), contenders)


def recorded(directory: Path) -> Group:
    """A run that was recorded, whose rows are judged each time."""
    path = recorded_path(directory)
    title = f"{RECORDED_STEPS} recorded steps of {LONG_TENSORS:,} tensors"
    return Group(title, path, [Contender(RECORDED, ["sh", "-c", _command(path, "--no-cache")])])


def idle_share(directory: Path, seconds: float) -> float:
    """What part of a core following a run takes while nothing happens."""
    folder = known_path(directory)
    options = "--follow", "--cache", str(store_of(folder))
    command = peers.gradtool("trend", str(folder), "--isolated", "--no-progress", *options)
    return (_cpu_s(command, STARTING_S + seconds) - _cpu_s(command, STARTING_S)) / seconds


def _cpu_s(command: list[str], seconds: float) -> float:
    """The CPU seconds of a process that is ended after so many by the clock."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    process.terminate()  # a process in the background ignores SIGINT
    _, _, usage = os.wait4(process.pid, 0)
    return usage.ru_utime + usage.ru_stime


def _command(path: Path, *options: str) -> str:
    """The command for a shell, for which steps with findings are no failure."""
    command = peers.gradtool("trend", str(path), "--isolated", "--no-progress", *options)
    return f"{shlex.join(command)} || test $? -eq 1"


def limits(first: Group, known: Group, long: Group, idle: float) -> Iterator[str]:
    """What was set, in CPU seconds: but for reading dumps all of it runs on one core."""
    yield limit("first time, by the CPU s of check", first.cpu_ratio(FIRST, CHECK), 1.1)
    yield limit("seen before: CPU s", known[KNOWN].cpu_seconds, 1.0, " s")
    yield limit("seen before: peak memory", known[KNOWN].peak_bytes / 1e6, 300, " MB")
    for label in (BY_FOLDER, BY_GLOB):
        yield limit(f"{label}: CPU s", long[label].cpu_seconds, 1.0, " s")
    yield limit("--follow, idle: % of a core", 100.0 * idle, 1.0, " %")


def compare(directory: Path, runs: int, idle_s: float) -> None:
    """Make the data, time everything, print tables and verdicts."""
    # By another process, whose imports and memory would be this one's otherwise.
    subprocess.run([sys.executable, "-m", "benchmarks.files.runs", str(directory)], check=True)
    groups = [make(directory) for make in (first_time, seen_before, newest, recorded)]
    for group in groups:
        group.run(runs)
        show(group)
    idle = idle_share(directory, idle_s)
    print(f"\n--follow of {KNOWN_STEPS:,} steps takes {100.0 * idle:.2f} % of a core")
    print("\nlimits of the design", *limits(*groups[:3], idle), sep="\n")


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    default = default_directory()
    parser.add_argument("--dir", type=Path, default=default, help=f"keeps the data ({default})")
    parser.add_argument("--runs", type=int, default=5, help="runs of each command (5)")
    parser.add_argument("--idle-s", type=float, default=60, help="seconds of following (60)")
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    compare(options.dir, options.runs, options.idle_s)


if __name__ == "__main__":
    main()
