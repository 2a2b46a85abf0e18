"""What the system is asked to do, in which order, and what if it fails or is killed at that."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from forks import ENVIRONMENT, PYTHON
from halved import HALVE, Halved, content, deflated_npz, remove, same_arrays, workspaces


def refusal() -> str | None:
    """Why calls cannot be watched here; None where they can."""
    if shutil.which("strace") is None:
        return "there is no strace here, to see which system calls are made"
    run = subprocess.run(["strace", "-qq", "true"], check=False, capture_output=True, text=True)
    return f"strace may not trace here: {run.stderr.strip()}" if run.returncode else None


REFUSAL = refusal()
pytestmark = pytest.mark.skipif(REFUSAL is not None, reason=REFUSAL or "")

WRITES = ("write", "writev", "pwrite64", "pwritev", "pwritev2", "sendfile", "copy_file_range")
WRITES += ("ftruncate", "fallocate")
NAMES = ("mkdir", "mkdirat", "link", "linkat", "symlink", "symlinkat", "rename", "renameat")
NAMES += ("renameat2", "unlink", "unlinkat", "rmdir", "chmod", "fchmodat", "chown", "fchownat")
NAMES += ("fchmod", "fchown", "setxattr", "fsetxattr", "utimensat")
SYNCS = ("fsync", "fdatasync")
TRACED = ",".join((*WRITES, *NAMES, *SYNCS, "flock", "openat", "close"))

MODES = ["new file", "in place", "directory", "deflated"]


@dataclass(frozen=True)
class Call:
    """One system call: when it began and ended, in lines of the trace."""

    thread: str
    name: str
    args: str
    result: str
    began: int
    ended: int

    @property
    def paths(self) -> list[str]:
        """Files that it names: by path, by descriptor, or in the directory of a descriptor."""
        return [
            os.path.join(found["directory"], found["name"]) if found["name"] else found["opened"]
            for found in _PATHS.finditer(self.args)
        ]


_PATHS = re.compile(
    r'(?:\d+|AT_FDCWD)<(?P<directory>/[^>]*)>, "(?P<name>[^"]+)"|\d+<(?P<opened>/[^>]*)>'
)
_LINE = re.compile(r"^(\d+) +(.*)$")
_WHOLE = re.compile(r"^(\w+)\((.*)\) += (.*)$")


def parse(trace: str) -> list[Call]:
    calls, begun = [], {}
    for number, line in enumerate(trace.splitlines()):
        found = _LINE.match(line)
        assert found, line
        pid, text = found.groups()
        if text.endswith("<unfinished ...>"):
            begun[pid] = (number, text.removesuffix("<unfinished ...>").rstrip())
            continue
        start = number
        if text.startswith("<... "):
            start, before = begun.pop(pid)
            text = before + text.partition("resumed>")[2]
        whole = _WHOLE.match(text)
        if whole:
            calls.append(Call(pid, *whole.groups(), start, number))
    return calls


@dataclass(frozen=True)
class Ground:
    """A folder with a source; how it is clipped and what comes of it."""

    mode: str
    folder: Path
    source: Path
    target: Path
    dump: Halved | None

    @property
    def command(self) -> list[str]:
        where = ["--in-place"] if self.mode == "in place" else ["-o", str(self.target)]
        return [*PYTHON, "-m", "gradtool", "clip", str(self.source), *where, *HALVE]

    @property
    def state(self) -> str:
        if self.dump is not None:
            return self.dump.state(self.target)
        if not self.target.exists():
            return "absent"
        same = same_arrays(self.target.read_bytes(), deflated_npz(1 << 16, 0.5))
        return "new" if same else "torn"


@pytest.fixture
def ground(mode: str, small_file: Halved, small_directory: Halved, tmp_path: Path) -> Ground:
    folder = tmp_path / "ground"
    folder.mkdir()
    source = folder / "source"
    dump = {"directory": small_directory, "deflated": None}.get(mode, small_file)
    if dump is None:
        source.write_bytes(deflated_npz(1 << 16))
    else:
        dump.write(source)
    return Ground(mode, folder, source, source if mode == "in place" else folder / "out", dump)


@dataclass(frozen=True)
class Trace:
    """A run that was watched: how it ended, its calls, and whether it was meddled with."""

    run: subprocess.CompletedProcess[str]
    calls: list[Call]
    disturbed: bool


def traced(ground: Ground, names: str, *options: str) -> Trace:
    log = ground.folder.parent / "trace"
    strace = ["strace", "-f", "-qq", "-y", "-s", "0", "-o", str(log)]
    strace += ["-e", f"trace={names}"]
    run = subprocess.run(
        [*strace, *options, *ground.command],
        check=False,
        capture_output=True,
        env={**ENVIRONMENT, "PYTHONDONTWRITEBYTECODE": "1"},
        text=True,
        timeout=60,
    )
    text = log.read_text()
    lines = [line for line in text.splitlines() if "+++ " not in line and "--- " not in line]
    # A thread that is killed at a call leaves it unfinished, and only says so.
    disturbed = any(mark in text for mark in ("(INJECTED)", "--- SIG", "+++ killed"))
    return Trace(run, parse("\n".join(lines)), disturbed)


def in_folder(ground: Ground, calls: list[Call]) -> list[Call]:
    """Those that have to do with the folder, and worked."""
    inside = str(ground.folder)
    return [
        call
        for call in calls
        if any(path == inside or path.startswith(f"{inside}/") for path in call.paths)
        and not call.result.startswith("-1")
    ]


@pytest.mark.parametrize("mode", MODES)
def test_all_is_on_disk_before_the_rename_and_the_rename_before_the_end(ground: Ground) -> None:
    trace = traced(ground, TRACED)
    assert (trace.run.returncode, trace.run.stderr, ground.state) == (0, "", "new")
    calls = [call for call in about(ground, trace.calls) if not call.result.startswith("-1")]
    (rename,) = (call for call in calls if call.name.startswith("rename"))
    built, target = rename.paths
    assert target == str(ground.target)
    synced = [call for call in calls if call.name in SYNCS and call.result == "0"]
    made = {built + str(path).removeprefix(target) for path in ground.target.rglob("*")} | {built}
    assert len(made) == (7 if ground.mode == "directory" else 1)
    for path in made:
        last = max(c.ended for c in calls if c != rename and changes_file(c, path))
        assert any(
            path in sync.paths and last < sync.began and sync.ended < rename.began
            for sync in synced
        ), f"{path} is not synced between its last change and the rename"
    assert any(str(ground.folder) in sync.paths and rename.ended < sync.began for sync in synced)


def changes_file(call: Call, path: str) -> bool:
    """Whether a call gives a file other bytes or attributes, or a directory other names."""
    if call.name in WRITES:
        # Where bytes come from is the second path of sendfile, and the first of the other.
        at = 1 if call.name == "copy_file_range" else 0
        return call.paths[at : at + 1] == [path]
    if call.name in NAMES:
        return path in call.paths or path in map(os.path.dirname, call.paths)
    return call.name == "openat" and "O_CREAT" in call.args and path in call.paths


def about(ground: Ground, calls: list[Call]) -> list[Call]:
    """Those that have to do with the folder."""
    inside = str(ground.folder)
    return [c for c in calls if any(p == inside or p.startswith(f"{inside}/") for p in c.paths)]


def occasions(ground: Ground, calls: list[Call], name: str) -> list[int]:
    """The first and the last call of that kind about the folder, as each thread counts its own."""
    counts: Counter[str] = Counter()
    concerned = set(about(ground, calls))
    found: dict[str, list[int]] = {}
    for call in sorted(calls, key=lambda call: call.began):
        if call.name == name:
            counts[call.thread] += 1
            if call in concerned:
                found.setdefault(call.thread, []).append(counts[call.thread])
    return sorted({when for whens in found.values() for when in (whens[0], whens[-1])})


FAILURES = {
    "mkdirat": errno.EROFS,
    "fallocate": errno.ENOSPC,
    "pwritev": errno.EIO,
    "write": errno.EDQUOT,
    "fchmod": errno.EIO,
    "fsync": errno.EIO,
    "renameat": errno.EIO,
}


@pytest.mark.parametrize("mode", ["in place", "directory", "deflated"])
def test_whatever_call_fails_the_target_is_untouched_and_one_line_says_so(ground: Ground) -> None:
    before, names = content(ground.folder), sorted(os.listdir(ground.folder))
    calls = traced(ground, TRACED, "--inject=renameat:error=EIO").calls  # none after the rename
    tried: Counter[str] = Counter()
    for name, number in FAILURES.items():
        for when in occasions(ground, calls, name):
            inject = f"--inject={name}:error={errno.errorcode[number]}:when={when}"
            trace = traced(ground, f"{name},renameat", inject)
            failed = f"{name} {when}: {trace.run}"
            if not trace.disturbed:  # threads share the work as it comes
                assert trace.run.returncode == 0, failed
                restore(ground)
                continue
            tried[name] += 1
            assert trace.run.returncode == 3, failed
            assert len(trace.run.stderr.splitlines()) == 1, failed
            assert os.strerror(number) in trace.run.stderr, failed
            assert content(ground.folder) == before, failed
            assert sorted(os.listdir(ground.folder)) == names, failed
    assert {"mkdirat", "write" if ground.mode == "deflated" else "fallocate", "fsync"} <= set(tried)


MOMENTS = ("mkdirat", "flock", "fallocate", "pwritev", "fchmod", "fsync", "renameat", "unlinkat")


@pytest.mark.parametrize(
    ("number", "mode"),
    [(signal.SIGTERM, "in place"), (signal.SIGTERM, "directory"), (signal.SIGKILL, "directory")],
    ids=["SIGTERM, in place", "SIGTERM, directory", "SIGKILL, directory"],
)
def test_killed_at_a_call_of_each_kind_a_clip_leaves_the_old_or_the_new(
    number: signal.Signals, ground: Ground
) -> None:
    """What random moments hardly ever meet: the steps of making and clearing the workspace."""
    before = content(ground.target)
    calls = traced(ground, TRACED).calls
    problems, killed = [], 0
    for name in MOMENTS:
        for when in occasions(ground, calls, name):
            restore(ground)
            trace = traced(ground, name, f"--inject={name}:signal={number.name}:when={when}")
            state, left = ground.state, workspaces(ground.folder)
            assert state == "new" or content(ground.target) == before, (name, when)
            if not trace.disturbed:
                continue
            killed += 1
            assert trace.run.returncode in (128 + number, -number), trace.run
            if number == signal.SIGTERM and (left or "Traceback" in trace.run.stderr):
                problems.append((name, when, trace.run.stderr, left))
    assert killed >= 6
    assert problems == [], problems
    restore(ground)
    trace = traced(ground, "renameat")
    assert (trace.run.returncode, ground.state, workspaces(ground.folder)) == (0, "new", [])


def restore(ground: Ground) -> None:
    if ground.target == ground.source:
        assert ground.dump is not None
        ground.dump.write(ground.source)
    else:
        remove(ground.target)


# Once the rename is done, nothing fails any more: what is true is said


DUMP = """
import sys
from torch import ones
from gradtool.torch import dump_gradients
dump_gradients([("w", ones(3))], sys.argv[1])
"""

WRITERS: dict[str, tuple[list[str], str, str]] = {
    "clip": (["-m", "gradtool", "clip", "IN", "-o", "OUT", *HALVE], "note +", "stdout"),
    "clip a directory": (
        ["-m", "gradtool", "clip", "DIR", "-o", "OUT", *HALVE],
        "note +",
        "stdout",
    ),
    "inspect": (["-m", "gradtool", "inspect", "IN", "-o", "OUT"], "gradtool: warning: ", "stderr"),
    "baseline": (
        ["-m", "gradtool", "baseline", "save", "IN", "-o", "OUT"],
        "gradtool: warning: ",
        "stderr",
    ),
    "check": (["-m", "gradtool", "check", "IN", "-f", "json:OUT"], "gradtool: warning: ", "stderr"),
    "dump_gradients": (["-c", DUMP, "OUT"], "", "stderr"),
}


@pytest.mark.parametrize("refusal", ["EIO", "EOPNOTSUPP", "EINVAL"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_directory_that_cannot_be_synced_is_a_warning_and_what_was_written_is_there(
    writer: str, refusal: str, small_file: Halved, small_directory: Halved, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    places = {
        "IN": small_file.write(tmp_path / "in.safetensors"),
        "DIR": small_directory.write(tmp_path / "run"),
        "OUT": folder / "out.json",
    }
    args, label, stream = WRITERS[writer]
    log = tmp_path / "trace"
    # Only what is about the folder itself is traced, and so refused.
    strace = ["strace", "-f", "-qq", "-o", str(log), "-P", str(folder), "-e", "trace=fsync"]
    strace += ["-e", f"inject=fsync:error={refusal}"]
    command = [*strace, *PYTHON, *(str(places.get(word, word)) for word in args)]
    command = [word.replace("json:OUT", f"json:{places['OUT']}") for word in command]
    run = subprocess.run(
        command, check=False, capture_output=True, env=ENVIRONMENT, text=True, timeout=120
    )
    assert log.read_text().count("(INJECTED)") == 1
    assert run.returncode == 0
    why = os.strerror(getattr(errno, refusal))
    said = f"{places['OUT']} is written; its directory could not be synced: {why}: it may be lost"
    warning = re.compile(f"^{label}{re.escape(said)} if the machine stops now$", re.MULTILINE)
    assert len(warning.findall(getattr(run, stream))) == 1
    assert run.stderr.count("\n") == (1 if stream == "stderr" else 0)
    assert os.listdir(folder) == ["out.json"]
    if writer == "clip":
        assert small_file.state(places["OUT"]) == "new"
