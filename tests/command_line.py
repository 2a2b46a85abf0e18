"""gradtool as a process of its own, as tests of the command line run it."""

from __future__ import annotations

import atexit
import os
import pty
import select
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from environment import PLAIN
from forks import Forks

ENVIRONMENT = {**PLAIN, "TERM": "xterm-256color"}
GRADTOOL = (sys.executable, "-W", "error", "-m", "gradtool")
TIMEOUT_S = 120.0

READ_LATE = {"COLUMNS", "NO_COLOR", "TERM", "GITHUB_STEP_SUMMARY", "XDG_CACHE_HOME"}
"""What gradtool reads of the environment, and not the interpreter on its start."""


def run(
    *args: str, env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """gradtool with `args`, started and waited for; its stdout and stderr unless redirected.

    Where nothing keeps it from being so, it is the child of one process that has loaded
    everything: to start an interpreter takes longer than most of what is tested.
    """
    env = {"TERM": "xterm-256color", **(env or {})}
    if options.keys() <= {"cwd"} and env.keys() <= READ_LATE:
        ended = _warmed().run(*args, env=env, cwd=str(options.get("cwd") or os.getcwd()))
        return subprocess.CompletedProcess(args, ended.code, ended.out, ended.err)
    defaults = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": TIMEOUT_S}
    return subprocess.run(
        [*GRADTOOL, *args],
        **{**defaults, **options},
        check=False,
        env={**ENVIRONMENT, **env},
        encoding="utf-8",
    )


@cache
def _warmed() -> Forks:
    until_the_end = ExitStack()
    atexit.register(until_the_end.close)
    folder = until_the_end.enter_context(tempfile.TemporaryDirectory())
    return until_the_end.enter_context(Forks(Path(folder)))


def error_lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    """The errors that were said; what else is on stderr is gradtool's too."""
    lines = result.stderr.splitlines()
    assert all(line.startswith("gradtool: ") for line in lines), result.stderr
    return [line for line in lines if line.startswith("gradtool: error: ")]


@contextmanager
def started(
    *args: str, stderr: int, command: tuple[str, ...] = GRADTOOL
) -> Iterator[subprocess.Popen[bytes]]:
    """A running gradtool that does not outlive the test, however that ends."""
    process = subprocess.Popen(
        [*command, *args], stdout=subprocess.PIPE, stderr=stderr, env=ENVIRONMENT
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def read_until(descriptor: int, wanted: bytes) -> bytes:
    """What a terminal is shown until `wanted` is there."""
    seen = b""
    deadline = time.monotonic() + 60.0
    while wanted not in seen:
        assert select.select([descriptor], [], [], deadline - time.monotonic())[0], seen
        assert time.monotonic() < deadline, seen
        seen += os.read(descriptor, 4096)
    return seen


def wait_for_reading(process: subprocess.Popen[bytes], path: str) -> None:
    """Wait until gradtool has the file open, however long it takes to start."""
    descriptors = Path(f"/proc/{process.pid}/fd")
    deadline = time.monotonic() + 60.0
    while descriptors.exists():
        with suppress(OSError):  # of descriptors that are closed meanwhile
            if any(os.path.samefile(descriptor, path) for descriptor in descriptors.iterdir()):
                return
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(3.0)  # for systems that do not tell


def on_terminal(
    *args: str, columns: int = 80, env: dict[str, str] | None = None, code: int = 0
) -> str:
    """What gradtool, which exits with `code`, writes to a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    assert run(*args, env=env, stdout=theirs).returncode == code
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    return shown


RUN_AND_LIST = """
import runpy, sys
foreign = sys.argv.pop(1)
sys.argv[0] = "gradtool"
try:
    {before}
    runpy.run_module("gradtool", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print(*sorted(set(foreign.split(",")) & set(sys.modules)))
"""


def loaded(foreign: str, *args: str, before: str = "pass") -> list[str]:
    """Which of the modules `foreign` are loaded once gradtool has run, and exited with 0."""
    output = subprocess.run(
        [sys.executable, "-c", RUN_AND_LIST.format(before=before), foreign, *args],
        capture_output=True,
        check=True,
        env=ENVIRONMENT,
        encoding="utf-8",
        timeout=TIMEOUT_S,
    ).stdout
    return output.splitlines()[-1].split()
