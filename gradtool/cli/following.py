"""`gradtool trend --follow`: a line for each step as it is finished."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from gradtool.cli.console import Display, say, stream
from gradtool.cli.on_finding import OnFinding
from gradtool.cli.signals import ended_by_signals
from gradtool.cli.spelling import findings_with_options, trend_with_options, with_options

if TYPE_CHECKING:
    from gradtool.api.follow.following import Follower
    from gradtool.api.follow.news import News

POLL_S: Final = 1.0
"""Seconds between looks at what is there."""


@dataclass(frozen=True, slots=True)
class Following:
    """How a run is followed.

    Attributes:
        settle_s: seconds for which nothing of a step without an index must have changed.
        fail_fast: whether the first step that fails ends it.
        command: to be run for each finding; empty for none.
        timeout_s: how long that may take.
    """

    settle_s: float
    fail_fast: bool
    command: tuple[str, ...]
    timeout_s: float


def follow(
    paths: Sequence[str],
    how: Following,
    form: str,
    display: Display,
    arguments: dict[str, Any],
) -> int:
    """Tell of each step of a run until a signal ends it; the exit code where something else does.

    `form` is the format of the lines, one of `report.trend.streamed.STREAMS`.

    That is 1, or 3 for a step that cannot be read, at the first that fails with `fail_fast`; or
    what all steps told of so far amount to, when nobody reads on.
    """
    from gradtool.api.follow.following import following  # noqa: PLC0415 - not for --help

    on_finding = OnFinding(how.command, how.timeout_s)
    teller = _Teller(form, display, on_finding)
    with (
        ended_by_signals(on_finding),
        following(*paths, settle_s=how.settle_s, **arguments) as follower,
    ):
        worst, is_waiting = 0, False
        while True:
            begun = time.monotonic()
            for news in follower.look():
                is_read = teller.tell(follower, news)
                code = _exit_code(news)
                worst = max(worst, code)
                if not is_read or (code and how.fail_fast):
                    return worst
            for note in follower.notes:
                say(f"note: {with_options(note)}")
            follower.notes.clear()
            if not follower.has_steps and not is_waiting:
                say(f"no steps yet: waiting for the first in {', '.join(paths)}")
                is_waiting = True
            time.sleep(max(0.0, begun + POLL_S - time.monotonic()))


@dataclass(slots=True)
class _Teller:
    """Says what is new, and has the command run for each finding, once."""

    form: str
    display: Display
    on_finding: OnFinding
    _has_begun: bool = False
    _told: set[object] = field(default_factory=set)

    def tell(self, follower: Follower, news: News) -> bool:
        """A line, and its findings to the command; whether anybody reads on."""
        from gradtool.report.trend.line import finding_json  # noqa: PLC0415 - loads rich

        is_read = True
        if news.findings or not self.display.quiet:
            is_read = stream(self._lines(follower, news))
        for finding in findings_with_options(news.findings):
            path = None if news.step is None else (news.step.path, news.step.number)
            about = finding.message if news.step is None else None
            key = path, finding.code, finding.tensor, finding.pattern, about
            if key not in self._told:
                self._told.add(key)
                self.on_finding(finding_json(finding, news.step))
        return is_read

    def _lines(self, follower: Follower, news: News) -> str:
        """What is new, after what stands before all lines if it is the first."""
        from gradtool.report.trend import streamed  # noqa: PLC0415 - loads rich

        trend = trend_with_options(follower.trend_of(news))
        head, lines = streamed.STREAMS[self.form]
        about = streamed.News(trend, news.is_change, follower.shows_paths)
        said = lines(about, self.display.style())
        parts = ["" if self._has_begun else head(trend), *said]
        self._has_begun = True
        return "".join(parts)


def _exit_code(news: News) -> int:
    if not news.fails:
        return 0
    return 1 if news.step is None else news.step.verdict.exit_code
