"""The command that is run for each finding while a run is followed.

It comes from the command line alone and is run without a shell; what was found is on its standard
input. So nothing that stands in a file gets into its arguments or its environment.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from gradtool.cli.console import say
from gradtool.cli.signals import deferred_signals
from gradtool.errors import UsageError


def read_command(text: str) -> tuple[str, ...]:
    """The words of a command, as a shell would split them; UsageError where there are none."""
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"--on-finding {text!r:.200}: {error}") from error
    if not words or not words[0]:
        raise UsageError("--on-finding: the command is empty")
    return words


def _name_of(number: int) -> str:
    """What a signal is called; those for real time have numbers only."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class OnFinding:
    """Runs a command, one at a time, and never longer than `timeout_s`; none if it is empty."""

    def __init__(self, command: Sequence[str], timeout_s: float) -> None:
        self._command = command
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, document: str) -> None:
        """Run it with a document on its standard input; what goes wrong is said, and no more."""
        if not self._command:
            return
        problem = self._run(document.encode())
        if problem:
            say(f"--on-finding: {self._command[0]}: {problem}")

    def _run(self, document: bytes) -> str:
        try:
            # What it writes is not ours: stdout has a line for each step. A session of its own can
            # be ended with all that was started in it, once it is known.
            with deferred_signals():
                self._process = subprocess.Popen(  # noqa: S603 - the user's own words
                    self._command, stdin=subprocess.PIPE, stdout=2, start_new_session=True
                )
        except (OSError, ValueError) as error:
            return f"cannot be run: {(isinstance(error, OSError) and error.strerror) or error}"
        try:
            self._process.communicate(document, self._timeout_s)
        except subprocess.TimeoutExpired:
            self.abort()
            self._process.wait()
            return f"not finished after {self._timeout_s:g} s, and ended"
        code = self._process.returncode
        self._process = None
        if code < 0:
            return f"ended by {_name_of(-code)}"
        return f"ended with {code}" if code else ""

    def abort(self) -> None:
        """End the command if it runs, and all that it started."""
        process = self._process
        if process is not None and process.returncode is None:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
