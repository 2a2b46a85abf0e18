"""`gradtool trend --follow` as a process, and what a test has it run."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from command_line import ENVIRONMENT, GRADTOOL

INTERRUPTED = 130


@contextmanager
def following(*args: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A running `gradtool trend --follow`, that does not outlive the test."""
    command = [*GRADTOOL, "trend", "--follow", "--no-cache", *args]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=ENVIRONMENT, **{**pipes, **options}) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """The next line that it writes."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its exit code, and what else it wrote."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def noting(path: Path) -> str:
    """A command that appends its input, arguments and environment to a file, a line each time."""
    script = path.with_suffix(".py")
    script.write_text(
        "import json, os, sys\n"
        "said = {'in': json.load(sys.stdin), 'args': sys.argv[2:], 'env': dict(os.environ)}\n"
        "open(sys.argv[1], 'a').write(json.dumps(said) + '\\n')\n"
        "print('from the command')\n"
    )
    return shlex.join([sys.executable, str(script), str(path)])
