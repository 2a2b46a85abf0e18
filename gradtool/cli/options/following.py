"""The options of `trend` to follow a run while it is written."""

from __future__ import annotations

import math
from typing import Annotated, Final, TypeAlias

import typer

from gradtool.cli.following import Following
from gradtool.cli.on_finding import read_command
from gradtool.cli.options.command import Group, Row, in_panel
from gradtool.cli.options.help import FOLLOWING
from gradtool.errors import UsageError

_SETTLE_S: Final = 5.0
_TIMEOUT_S: Final = 60.0

_ROWS: Final = (
    Row(
        "follow",
        bool,
        typer.Option(
            False,
            "--follow",
            help="Go on looking, and show each step once it is finished, as a line.",
        ),
    ),
    Row(
        "settle",
        float | None,
        typer.Option(
            None,
            "--settle",
            metavar="SECONDS",
            help="How long nothing of a set of files without an index must have changed.",
            show_default="5",
        ),
    ),
    Row(
        "fail_fast",
        bool,
        typer.Option(False, "--fail-fast", help="End with 1 at the first step that fails."),
    ),
    Row(
        "on_finding",
        str | None,
        typer.Option(
            None,
            "--on-finding",
            metavar="COMMAND",
            help="Run a command, without a shell, for each finding: it is JSON on its stdin.",
        ),
    ),
    Row(
        "on_finding_timeout",
        float | None,
        typer.Option(
            None,
            "--on-finding-timeout",
            metavar="SECONDS",
            help="How long that may take.",
            show_default="60",
        ),
    ),
)


def _following(
    *,
    follow: bool,
    settle: float | None,
    fail_fast: bool,
    on_finding: str | None,
    on_finding_timeout: float | None,
) -> Following | None:
    """How to follow; None where that was not asked for."""
    given = {
        "--settle": settle is not None,
        "--fail-fast": fail_fast,
        "--on-finding": on_finding is not None,
        "--on-finding-timeout": on_finding_timeout is not None,
    }
    if not follow:
        for option, is_given in given.items():
            if is_given:
                raise UsageError(f"{option} needs --follow")
        return None
    if on_finding is None and on_finding_timeout is not None:
        raise UsageError("--on-finding-timeout needs --on-finding")
    return Following(
        settle_s=_seconds("--settle", settle, _SETTLE_S),
        fail_fast=fail_fast,
        command=() if on_finding is None else read_command(on_finding),
        timeout_s=_seconds("--on-finding-timeout", on_finding_timeout, _TIMEOUT_S),
    )


def _seconds(option: str, value: float | None, default: float) -> float:
    if value is not None and not 0.0 <= value < math.inf:
        raise UsageError(f"{option} {value}: give a number of seconds, at least 0")
    return default if value is None else value


Follow: TypeAlias = Annotated[Following | None, Group(in_panel(FOLLOWING, *_ROWS), _following)]
"""How a run is followed; None where it is not."""
