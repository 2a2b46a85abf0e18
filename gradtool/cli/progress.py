"""A progress bar for work that takes a while."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gradtool.report.escaping import visible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PATIENCE_S = 1.0
"""Seconds of work before a bar is drawn."""

REFRESH_S = 0.1
WIDEST_LABEL = 30
_SHOW_CURSOR = b"\r\x1b[2K\x1b[?25h"


class ByteProgress:
    """Bytes done, rate and time left on stderr, if it is a terminal and work takes over 1 s.

    A context manager, which removes the bar at its end; call it with the bytes done and in total.
    """

    def __init__(self, path: str, *, enabled: bool, plain: bool) -> None:
        # The whole path would leave no room for the figures.
        name = os.path.basename(os.path.normpath(path))
        self._label = visible(name)
        self._plain = plain
        self._enabled = enabled and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._next = time.monotonic() + PATIENCE_S
        self._bar: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar[0].stop()

    def abort(self) -> None:
        """Remove the bar, from the signal handler of a process that ends at once."""
        if self._bar is not None:
            os.write(2, _SHOW_CURSOR)

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        """Show how far the work is, if it is time to."""
        if not self._enabled:
            return
        now = time.monotonic()
        due = now >= self._next
        if self._bar is None:
            if not due:
                return
            self._bar = _start_bar(self._label, plain=self._plain)
        progress, task = self._bar
        progress.update(task, completed=done_bytes, total=total_bytes, refresh=due)
        if due:
            self._next = now + REFRESH_S


def _start_bar(label: str, *, plain: bool) -> tuple[Progress, TaskID]:
    # Imported late: most runs end before a bar is drawn.
    from rich import console, markup, progress  # noqa: PLC0415

    from gradtool.report.layout import shortened_name  # noqa: PLC0415

    bar = progress.Progress(
        progress.TextColumn(markup.escape(shortened_name(label, WIDEST_LABEL))),
        progress.BarColumn(bar_width=None),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=console.Console(stderr=True, no_color=plain or None),
        expand=True,
        transient=True,
        auto_refresh=False,  # it would take a thread, which may not be available
    )
    task = bar.add_task("", total=None)
    bar.start()
    return bar, task
