"""Whole processes, timed in turns: seconds of the clock and of processors, memory, output."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from benchmarks.harness.tables import figure, table

T = TypeVar("T")

# Linux gives kilobytes, macOS bytes.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024

# The peak that the kernel counts for a child starts from its parent's, so that a small process
# has to stand between: this one holds some 10 MB, whatever the benchmark itself has read.
LAUNCHER = """
import os, sys, time
start = time.perf_counter()
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
seconds = time.perf_counter() - start
cpu = usage.ru_utime + usage.ru_stime
report = [seconds, cpu, usage.ru_maxrss, os.waitstatus_to_exitcode(status)]
print("", " ".join(map(str, report)), sep="\\n", file=sys.stderr)
"""


@dataclass(frozen=True)
class Sample:
    """One run of one command: wall time, user and system time, peak memory, what it printed."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    stdout: str


@dataclass
class Contender:
    """A command in a comparison and, in time, its runs.

    `norm_of` reads the norm it printed; the file that it `writes` is removed before each run.
    """

    label: str
    command: Sequence[str]
    norm_of: Callable[[str], float] | None = None
    samples: list[Sample] = field(default_factory=list)
    failure: str | None = None
    writes: Path | None = None

    @property
    def seconds(self) -> float:
        """Median wall time; NaN where it failed."""
        return statistics.median(s.seconds for s in self.samples) if self.ok else math.nan

    @property
    def cpu_seconds(self) -> float:
        """Median of user and system time together; NaN where it failed."""
        return statistics.median(s.cpu_seconds for s in self.samples) if self.ok else math.nan

    @property
    def peak_bytes(self) -> float:
        """Median peak of resident memory; NaN where it failed."""
        return statistics.median(s.peak_bytes for s in self.samples) if self.ok else math.nan

    @property
    def ok(self) -> bool:
        """Whether it ran every time."""
        return self.failure is None and bool(self.samples)

    def error_against(self, exact: float) -> float:
        """Relative error of the norm it printed; NaN where it prints none."""
        if not self.ok or self.norm_of is None:
            return math.nan
        return self.norm_of(self.samples[-1].stdout) / exact - 1


@dataclass
class Group:
    """Commands on the same data, the first one being gradtool's."""

    title: str
    path: Path
    contenders: list[Contender]
    exact: float = math.nan

    def __getitem__(self, label: str) -> Contender:
        return next(one for one in self.contenders if one.label == label)

    def run(self, runs: int) -> None:
        """Run all in turns, `runs` times, on cached data; one that fails sits out the rest."""
        warm(self.path)
        for contender in in_turns(self.contenders, runs):
            if contender.failure is None:
                if contender.writes is not None:
                    contender.writes.unlink(missing_ok=True)
                    os.sync()
                measure(contender)
        for contender in self.contenders:
            if contender.writes is not None:
                contender.writes.unlink(missing_ok=True)

    def ratio(self, label: str, to: str) -> float:
        """Median over the turns of one command's time by another's; NaN where either failed."""
        return self._ratio(label, to, lambda sample: sample.seconds)

    def cpu_ratio(self, label: str, to: str) -> float:
        """The same of user and system time."""
        return self._ratio(label, to, lambda sample: sample.cpu_seconds)

    def _ratio(self, label: str, to: str, seconds: Callable[[Sample], float]) -> float:
        one, other = self[label], self[to]
        if not (one.ok and other.ok):
            return math.nan
        pairs = zip(one.samples, other.samples, strict=True)
        return statistics.median(seconds(a) / seconds(b) for a, b in pairs)


def in_turns(contestants: Sequence[T], runs: int) -> Iterator[T]:
    """All of them, `runs` times.

    Each turn starts with another one: what a run leaves behind (memory that the system has
    at hand, a disk still writing) must not fall to the same neighbour every time.
    """
    for turn in range(runs):
        first = turn % len(contestants)
        yield from contestants[first:]
        yield from contestants[:first]


def warm(path: Path) -> None:
    """Write out what is waiting, and bring the file, or those of a directory, into the cache."""
    os.sync()
    buffer = bytearray(1 << 20)
    for one in files_at(path):
        with open(one, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def files_at(path: Path) -> list[Path]:
    """The file, or those of a directory."""
    return sorted(filter(Path.is_file, path.iterdir())) if path.is_dir() else [path]


def measure(contender: Contender) -> None:
    """Run the command once and note what it took."""
    launch = [sys.executable, "-I", "-S", "-c", LAUNCHER, *contender.command]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        subprocess.run(launch, stdout=out, stderr=err, check=True)
        out.seek(0)
        err.seek(0)
        *lines, report = err.read().strip().splitlines()
        seconds, cpu, peak, code = report.split()
        if code == "0":
            sample = Sample(float(seconds), float(cpu), int(peak) * RSS_UNIT, out.read())
            contender.samples.append(sample)
        else:
            contender.failure = " / ".join([f"exit code {code}", *filter(None, lines[-3:])])


def last_number(stdout: str) -> float:
    """The norm that a peer printed on its last line."""
    return float(stdout.rsplit(maxsplit=1)[-1])


def json_norm(stdout: str) -> float:
    """The total norm of gradtool's first report."""
    return float(json.loads(stdout)["reports"][0]["total"]["norm"])


def json_norm_before(stdout: str) -> float:
    """The norm that `gradtool clip` found."""
    return float(json.loads(stdout)["norm_before"])


def show(group: Group) -> None:
    """Print a group's table."""
    heads = [
        "command",
        "median s",
        "min-max s",
        "CPU s",
        "GB/s",
        "peak MB",
        "x gradtool",
        "norm's error",
    ]
    first = group.contenders[0].label
    rows = [_row(group, contender, first) for contender in group.contenders]
    print(f"\n{group.title}\n{table(heads, rows)}")
    for contender in group.contenders:
        if contender.failure is not None:
            print(f"{contender.label} failed: {contender.failure}")


def _row(group: Group, contender: Contender, first: str) -> list[str]:
    times = [sample.seconds for sample in contender.samples] if contender.ok else []
    size = sum(file.stat().st_size for file in files_at(group.path))
    rate = size / contender.seconds / 1e9 if size > 1e6 else math.nan
    return [
        contender.label,
        figure(contender.seconds, ".3f"),
        f"{min(times):.3f}-{max(times):.3f}" if times else "-",
        figure(contender.cpu_seconds, ".3f"),
        figure(rate, ".2f"),
        figure(contender.peak_bytes / 1e6, ".0f"),
        figure(group.ratio(contender.label, first), ".2f"),
        figure(contender.error_against(group.exact), "+.1e"),
    ]
