"""`gradtool check`."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

import gradtool  # whose names load array libraries on first use, which --help is not
from gradtool.cli import console
from gradtool.cli.console import Showing
from gradtool.cli.options import groups
from gradtool.cli.options.checking import Judging
from gradtool.cli.options.command import command
from gradtool.cli.paths import expand_all
from gradtool.cli.reports import Reports, Sink
from gradtool.cli.spelling import spelt
from gradtool.report import CHECK_REPORTERS, check_reporter
from gradtool.report.escaping import brief
from gradtool.shortening import LONGEST_LINE, LONGEST_NAME
from gradtool.storage.links import target_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gradtool.core.judging.verdict import CheckOutcome, Finding

EPILOG = """\
\b
Examples:
  gradtool check grads.safetensors
  gradtool check 'run/step*/*.safetensors' --max-consecutive-nonfinite 2
  gradtool check grads.pt --baseline grads.baseline.json --fail-on warning
  gradtool check grads.npz --expect-norm 9.01 --rtol 1e-3
  gradtool check grads.pt -f junit:report.xml -f github
"""

ExitZero: TypeAlias = Annotated[
    bool, typer.Option("--exit-zero", help="Exit 0 for findings; not for what cannot be read.")
]
AsReports: TypeAlias = Annotated[Reports, groups.reports_in(CHECK_REPORTERS)]
Shown: TypeAlias = Annotated[
    Showing, groups.showing_all("List every finding, however many there are.")
]


@command
def check(
    *,
    paths: groups.Paths,
    reports: AsReports,
    compared: groups.Comparing,
    judging: Judging,
    exit_zero: ExitZero = False,
    measuring: groups.Measuring,
    showing: Shown,
) -> None:
    """Judge gradients: NaN, overflow, dead layers, drift from a baseline, and more.

    Several dumps are those of one run, judged in the order of steps. Exits 1 for findings and 3
    if a PATH could not be read.
    """
    found = list(expand_all(paths))
    reports = _with_summary(reports)
    reports.spare([*found, *compared.files])
    with showing.progress(paths[0]) as progress:
        outcome = gradtool.check(
            *found,
            baseline=compared.baseline,
            config=compared.config,
            progress=progress,
            **judging,
            **measuring,
        )
    outcome = _spelt(outcome)
    _say_unjudged(outcome)
    reports.write(lambda name, style: check_reporter(name)(outcome, style), showing)
    raise typer.Exit(0 if exit_zero and outcome.exit_code == 1 else outcome.exit_code)


def _spelt(outcome: CheckOutcome) -> CheckOutcome:
    """The outcome with options where the library names its arguments."""

    def those(findings: Iterable[Finding]) -> tuple[Finding, ...]:
        return tuple(replace(one, message=spelt(one.message)) for one in findings)

    verdicts = (replace(one, findings=those(one.findings)) for one in outcome.verdicts)
    return replace(outcome, verdicts=tuple(verdicts), findings=those(outcome.findings))


def _say_unjudged(outcome: CheckOutcome) -> None:
    """Say on stderr, too, what could not be judged."""
    from gradtool.report.check.words import sentence  # noqa: PLC0415 - not for --help

    for verdict in outcome.verdicts:
        if verdict.summary is None:
            for finding in verdict.findings:
                start = f"{console.ERROR}{brief(verdict.path, LONGEST_NAME)}: "
                said = sentence(finding, verdict, LONGEST_LINE - len(start))
                console.tell(f"{start}{said}\n")


def _with_summary(reports: Reports) -> Reports:
    """With the summary that a step of GitHub's shows beside its annotations.

    Unless a report was asked for in that place: who asks knows what it is.
    """
    file = os.environ.get("GITHUB_STEP_SUMMARY")
    if not file or all(sink.format != "github" for sink in reports.sinks):
        return reports
    if any(sink.file and target_path(sink.file) == target_path(file) for sink in reports.sinks):
        return reports
    return Reports((*reports.sinks, Sink("markdown", file, "GITHUB_STEP_SUMMARY", appended=True)))
