"""`gradtool check`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

import gradtool  # lazy: its names load array libraries on first use
from gradtool.cli import console
from gradtool.cli.console import Display
from gradtool.cli.options import groups
from gradtool.cli.options.checking import Judging
from gradtool.cli.options.command import command
from gradtool.cli.options.help import JUDGING
from gradtool.cli.options.keeping import CacheIfGiven
from gradtool.cli.options.table import VERBOSE
from gradtool.cli.paths import expand_all, one_place
from gradtool.cli.reports import Reports
from gradtool.cli.spelling import findings_with_options, verdict_with_options
from gradtool.report import CHECK_REPORTERS, check_reporter
from gradtool.report.escaping import brief
from gradtool.shortening import LONGEST_LINE, LONGEST_NAME

if TYPE_CHECKING:
    from gradtool.core.judging.verdict import CheckOutcome

EPILOG = """\
\b
Examples:
  gradtool check grads.safetensors
  gradtool check 'run/step*/*.safetensors' --max-consecutive-nonfinite 2
  gradtool check grads.pt --baseline grads.baseline.json --fail-on warning
  gradtool check grads.npz --expect-norm 9.01 --rtol 1e-3
  gradtool check new.safetensors --against old.safetensors
  gradtool check grads.pt -f junit:report.xml -f github
"""

Against: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="DUMP",
        help="Expect the same elements as this dump has, as gradtool diff compares (GT411).",
        rich_help_panel=JUDGING,
    ),
]
ExitZero: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--exit-zero",
        help="Exit 0 for findings; not for what cannot be read.",
        rich_help_panel=JUDGING,
    ),
]
ReportOptions: TypeAlias = Annotated[Reports, groups.reports_in(CHECK_REPORTERS)]
DisplayOptions: TypeAlias = Annotated[
    Display, groups.display("List every finding, however many there are.", VERBOSE)
]


@command
def check(
    *,
    paths: groups.Paths,
    reports: ReportOptions,
    configured: groups.ConfiguredWithBaseline,
    judging: Judging,
    against: Against = None,
    exit_zero: ExitZero = False,
    measuring: groups.Measuring,
    kept: CacheIfGiven,
    display: DisplayOptions,
) -> None:
    """Judge gradients: NaN, overflow, dead layers, drift, and more.

    Several dumps are those of one run, judged in the order of steps. Exits 1 for findings and 3
    if a PATH could not be read.
    """
    reports = reports.with_step_summary()
    compared_to = [] if against is None else [against]
    reports.refuse_to_replace([*expand_all([*paths, *compared_to]), *configured.files])
    with display.progress(paths[0]) as progress:
        outcome = gradtool.check(
            *paths,
            baseline=configured.baseline,
            config=configured.config,
            against=None if against is None else one_place(against),
            cache=kept,
            progress=progress,
            **judging,
            **measuring,
        )
    outcome = _with_options(outcome)
    if not reports.people_read_stdout:
        _say_unjudged(outcome)
    reports.write(lambda name, style: check_reporter(name)(outcome, style), display)
    raise typer.Exit(0 if exit_zero and outcome.exit_code == 1 else outcome.exit_code)


def _with_options(outcome: CheckOutcome) -> CheckOutcome:
    """The outcome, its messages naming options instead of the library's arguments."""
    verdicts = tuple(map(verdict_with_options, outcome.verdicts))
    return replace(outcome, verdicts=verdicts, findings=findings_with_options(outcome.findings))


def _say_unjudged(outcome: CheckOutcome) -> None:
    """Say on stderr which dumps could not be judged, and why, where no report on stdout does."""
    from gradtool.report.check.words import sentence  # noqa: PLC0415 - not for --help

    for verdict in outcome.verdicts:
        if not verdict.is_judged:
            for finding in verdict.findings:
                start = f"{console.ERROR}{brief(verdict.path, LONGEST_NAME)}: "
                reason = sentence(finding, verdict, LONGEST_LINE - len(start))
                console.write_stderr(f"{start}{reason}\n")
