"""What becomes of long work when a signal ends the process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from gradtool.cli.progress import ByteProgress
from gradtool.storage.workspace import abandon_all

_ENDS = {
    signal.SIGINT: b"interrupted",
    signal.SIGTERM: b"terminated",
    signal.SIGHUP: b"hung up",
}


@contextmanager
def ended_by_signals(progress: ByteProgress) -> Iterator[None]:
    """Have signals that end a process clear first what was begun.

    They end it at once: an exception out of a handler may strike while one of the locks is taken
    by which threads hand work over, and then wait for those threads for ever.
    """

    def end(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
        try:
            abandon_all()
            progress.abort()
            os.write(2, b"gradtool: %s\n" % _ENDS[signal.Signals(number)])
        finally:  # whoever hears it may be gone
            os._exit(128 + number)

    # Who starts a process in the background may have it ignore some.
    before = {one: signal.getsignal(one) for one in _ENDS}
    heeded = [one for one in _ENDS if before[one] is not signal.SIG_IGN]
    for one in heeded:
        signal.signal(one, end)
    try:
        yield
    finally:
        for one in heeded:
            signal.signal(one, before[one])
