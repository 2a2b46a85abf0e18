"""Texts of the library with options in place of its arguments.

The library is made for Python: its texts name an argument in backticks, as `max_norm`, or with a
value as `force=True`. On the command line these are `--max-norm` and `--force`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # the types of `check` and `trend`, which other commands need not load
    from gradtool.core.judging.verdict import Finding, Verdict
    from gradtool.core.trends.steps import Step
    from gradtool.core.trends.trend import Trend

THRESHOLDS: Final = {
    "GT006.min_tensors": "min_tensors",
    "GT007.names": "expect",
    "GT103.max_consecutive": "max_consecutive",
    "GT401.norm": "expect_norm",
    "GT410.names": "expect_zero",
}
"""Thresholds of `check` that have an option of their own, and the parameter of that option."""

OPTIONS: Final[dict[str, str]] = {}
"""The option of each parameter, as `--max-norm`; filled when a command's module is loaded."""

_QUOTES: Final = "\"'"
# Names from files stand in quotes, and paths before a colon: they are left as they are.
_ARGUMENT: Final = re.compile(r"(?<!['\"\w/])`(GT\d{3}\.)?([a-z_]+)(?:=([^`]*))?`(?!['\":\w/])")


def with_options(text: str) -> str:
    """`text` with the option in place of each argument that has one."""
    return _ARGUMENT.sub(_option, text)


def findings_with_options(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings, their messages in the command line's words."""
    return tuple(replace(finding, message=with_options(finding.message)) for finding in findings)


def verdict_with_options(verdict: Verdict) -> Verdict:
    """A verdict, all that is said in it in the command line's words."""
    return replace(
        verdict,
        findings=findings_with_options(verdict.findings),
        notes=tuple(map(with_options, verdict.notes)),
        essential_notes=tuple(map(with_options, verdict.essential_notes)),
    )


def trend_with_options(found: Trend) -> Trend:
    """A trend, its texts in the command line's words."""

    def step(one: Step) -> Step:
        return replace(one, verdict=verdict_with_options(one.verdict))

    runs = (
        replace(
            run,
            steps=tuple(map(step, run.steps)),
            conclusions=tuple(replace(one, text=with_options(one.text)) for one in run.conclusions),
            findings=findings_with_options(run.findings),
        )
        for run in found.runs
    )
    return replace(found, runs=tuple(runs), notes=tuple(map(with_options, found.notes)))


def _option(argument: re.Match[str]) -> str:
    code, name, value = argument.groups()
    option = OPTIONS.get(THRESHOLDS.get(f"{code}{name}", "") if code else name)
    if option is None:
        return argument[0]
    return option if value in (None, "True") else f"{option} {value.strip(_QUOTES)}"
