"""Runs of the command line as children of one warmed process, `fork_server.py`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from dumps import write_safetensors
from environment import PLAIN

ENVIRONMENT = {
    **PLAIN,
    # There must be no thread in a process that forks.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
PYTHON = (sys.executable, "-W", "error")
_SERVER = str(Path(__file__).with_name("fork_server.py"))


@dataclass(frozen=True)
class Run:
    """How a run ended. A `code` of -9 is a death by SIGKILL."""

    status: int
    out: str
    err: str
    seconds: float
    alive: bool

    @property
    def code(self) -> int:
        return os.waitstatus_to_exitcode(self.status)

    @property
    def error(self) -> str:
        """The one line that it said, which has to be a clear one."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("gradtool: error: "), self.err
        return lines[0]


class Server:
    """A warmed process that forks others and says so; a context manager."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=ENVIRONMENT,
            encoding="utf-8",
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()

    @property
    def pid(self) -> int:
        return self._process.pid


class Forks(Server):
    """The process that runs gradtool's commands. `within` is a command that starts it."""

    def __init__(self, folder: Path, within: Sequence[str] = ()) -> None:
        warm = folder / "warm.safetensors"
        write_safetensors(warm, {"w": ("F32", np.ones(100, np.float32))})
        super().__init__([*within, *PYTHON, _SERVER, str(warm)])

    def __enter__(self) -> Self:
        super().__enter__()
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def run(self, *args: str | Path, **limits: Any) -> Run:
        """One run; `limits` are `cwd`, `env`, `fsize`, `nproc`, `umask` and `ids`."""
        return self.together([args], **limits)[0]

    def together(self, commands: Sequence[Sequence[str | Path]], **limits: Any) -> list[Run]:
        """Runs that start at once."""
        return self._ask(runs=[{"args": [*map(str, args)], **limits} for args in commands])

    def killed(self, number: signal.Signals, delay: float, *args: str | Path) -> Run:
        """One run that is sent a signal after `delay` seconds."""
        return self._ask(runs=[{"args": [*map(str, args)]}], signal=number, delay=delay)[0]

    def _ask(self, **request: Any) -> list[Run]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(request)}\n")
        self._process.stdin.flush()
        return [Run(**answer) for answer in json.loads(self._process.stdout.readline())]
