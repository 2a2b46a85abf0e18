"""`gradtool trend`."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import typer

import gradtool  # lazy: its names load array libraries on first use
from gradtool.cli.console import Display
from gradtool.cli.following import follow
from gradtool.cli.options import groups
from gradtool.cli.options.checking import Judging
from gradtool.cli.options.command import command
from gradtool.cli.options.following import Follow
from gradtool.cli.options.help import SHOWING
from gradtool.cli.options.keeping import Cache
from gradtool.cli.options.trending import Followed
from gradtool.cli.paths import expand_all
from gradtool.cli.reports import Reports
from gradtool.cli.spelling import trend_with_options
from gradtool.errors import UsageError
from gradtool.report import TREND_REPORTERS, trend_reporter
from gradtool.report.model import TrendReport

EPILOG = """\
\b
Examples:
  gradtool trend run/
  gradtool trend 'run/step*.safetensors' --last 100
  gradtool trend run/ -g 'layers.*' --tensor '*.embed.weight'
  gradtool trend run/ --log out/trainer_state.json
  gradtool trend run/ --follow --on-finding 'notify-send gradtool'
  gradtool trend run/ --follow -f json
  gradtool trend run/ -f csv:run.csv -f html:run.html --max-norm 1.0
  gradtool trend run.rows
  gradtool trend run.rows --follow --fail-fast
"""

Long: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--long",
        help="In csv, a row for each tensor of each step.",
        rich_help_panel=SHOWING,
    ),
]
Clipping: TypeAlias = Annotated[
    groups.Arguments, groups.clipping_to(SHOWING, "Say what clipping to X would do.")
]
ReportOptions: TypeAlias = Annotated[Reports, groups.reports_in(TREND_REPORTERS)]
DisplayOptions: TypeAlias = Annotated[
    Display, groups.display("List every step and every finding, however many there are.")
]


@command
def trend(
    *,
    paths: groups.Paths,
    followed: Followed,
    following: Follow,
    grouping: groups.Grouping,
    clipping: Clipping,
    configured: groups.ConfiguredWithBaseline,
    judging: Judging,
    measuring: groups.Measuring,
    kept: Cache,
    long: Long = False,
    reports: ReportOptions,
    display: DisplayOptions,
) -> None:
    """Follow a run step by step: which step broke first, and in which tensor.

    Each PATH that is a directory with several steps, or what a gradtool.torch.Recorder keeps, is a
    run of its own; all others together are one. Exits as `check` does, by whose rules each step is
    judged.

    With --follow, steps of dumps are shown as they are finished, and those of a Recorder as they
    are written. -f says what the lines are: JSON objects, say, one for each step, with the keys of
    `steps` in the report, and for what several steps show together those of `findings`.
    """
    if long and all(sink.format != "csv" for sink in reports.sinks):
        raise UsageError("--long is for -f csv")
    if long and following is not None:
        raise UsageError("--long is not for --follow")
    if long and not followed["tensor"]:
        followed["tensor"] = "*"
    if following is not None:
        form = _form_of_lines(followed, grouping, reports)
        arguments = {**clipping, **judging, **measuring, "cache": kept}
        arguments |= {"baseline": configured.baseline, "config": configured.config}
        raise typer.Exit(follow(paths, following, form, display, arguments))
    reports.refuse_to_replace(
        [*expand_all(paths), *configured.files, *filter(None, [followed["log"]])]
    )
    with display.progress(paths[0]) as progress:
        found = gradtool.trend(
            *paths,
            baseline=configured.baseline,
            config=configured.config,
            group_by=grouping,
            cache=kept,
            progress=progress,
            **followed,
            **clipping,
            **judging,
            **measuring,
        )
    report = TrendReport(trend_with_options(found), long)
    reports.write(lambda name, style: trend_reporter(name)(report, style), display)
    raise typer.Exit(found.exit_code)


def _form_of_lines(followed: dict[str, Any], grouping: str | None, reports: Reports) -> str:
    """The format of a line for each step; UsageError for what has no place in one."""
    from gradtool.report.trend.streamed import STREAMS  # noqa: PLC0415 - not for --help

    for name, option in {"last": "--last", "tensor": "--tensor", "log": "--log"}.items():
        if followed[name]:
            raise UsageError(f"{option} is not for --follow")
    if grouping is not None:
        raise UsageError("--group-by is not for --follow")
    form, file = reports.sinks[0].format, reports.sinks[0].file
    if reports.sinks[1:] or file is not None or form not in STREAMS:
        one_of = ", ".join(STREAMS)
        raise UsageError(f"--follow writes lines to stdout: no -o, and -f one of {one_of}")
    return form
