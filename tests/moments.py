"""Things that happen right before a system call: the worst moment for whoever looked just before.

Python tells audit hooks of most calls that name a file, before it makes them. What is done there
needs no luck, as a race against a process that is at it all the time does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

_EVENTS = ("open", "fcntl.flock", "os.", "shutil.")


@dataclass
class Moment:
    """Right before the call of that number, from 0 on, `action` is done."""

    number: int
    action: Callable[[], None]
    is_reached: bool = False


_lock = Lock()
_awaited: list[Moment] = []
_hooked: list[bool] = []


def _hear(event: str, args: tuple[object, ...]) -> None:  # noqa: ARG001 - as hooks are called
    if not (_awaited and event.startswith(_EVENTS)) or not _lock.acquire(blocking=False):
        return  # the action itself makes calls, too
    try:
        moment = _awaited[0]
        if moment.number == 0 and not moment.is_reached:
            moment.is_reached = True
            moment.action()
        moment.number -= 1
    finally:
        _lock.release()


@contextmanager
def before_call(number: int, action: Callable[[], None]) -> Iterator[Moment]:
    """Have `action` done before the call of that number that is made inside."""
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(_hear)  # for the rest of the process
    _awaited.append(Moment(number, action))
    try:
        yield _awaited[0]
    finally:
        _awaited.clear()
