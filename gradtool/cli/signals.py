"""Cleaning up long work when a signal ends the process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, Protocol

from gradtool.storage.workspace import abandon_all

_ENDS = {
    signal.SIGINT: b"interrupted",
    signal.SIGTERM: b"terminated",
    signal.SIGHUP: b"hung up",
}


class Abortable(Protocol):
    """Work beside the main one that must not outlive the process: a bar, another process."""

    def abort(self) -> None:
        """End it, from a signal handler."""


@contextmanager
def ended_by_signals(progress: Abortable) -> Iterator[None]:
    """A context in which signals that end the process first remove what is unfinished, and the bar.

    The handler ends the process itself: an exception raised there could come while a lock is held
    by which threads hand over work, and then wait for those threads for ever.
    """

    def end(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
        try:
            abandon_all()
            progress.abort()
            os.write(2, b"gradtool: %s\n" % _ENDS[signal.Signals(number)])
        finally:  # also if stderr is closed
            os._exit(128 + number)

    handlers = {number: signal.getsignal(number) for number in _ENDS}
    # A process started in the background may be meant to ignore some.
    heeded = [number for number in _ENDS if handlers[number] is not signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, handlers[number])


@contextmanager
def deferred_signals() -> Iterator[None]:
    """A context at whose end signals take effect that came inside it: it has to be short."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        came.append(number)

    handlers = {number: signal.getsignal(number) for number in _ENDS}
    heeded = [number for number in _ENDS if handlers[number] is not signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, handlers[number])
        for each in came:
            os.kill(os.getpid(), each)
