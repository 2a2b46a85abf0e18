"""Verdicts as annotations of a GitHub workflow: commands to its runner, one a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from gradtool.core.figures import counted
from gradtool.core.judging.rule import SEVERITIES
from gradtool.core.judging.verdict import CheckOutcome
from gradtool.report.annotations import MAX_ANNOTATIONS, begun, command
from gradtool.report.check.rows import DumpFinding, most_important_first
from gradtool.report.check.words import conclusion, sentence, severity_counts
from gradtool.report.escaping import visible
from gradtool.report.model import Style
from gradtool.shortening import LONGEST_LINE

_TITLE: Final = "gradtool check"


def render(outcome: CheckOutcome, style: Style) -> str:  # noqa: ARG001
    """The most important findings as annotations, the number of others, and a conclusion."""
    return "\n".join(_lines(outcome)) + "\n"


def _lines(outcome: CheckOutcome) -> Iterator[str]:
    rows = most_important_first(outcome)
    left_out: list[DumpFinding] = []
    for severity in SEVERITIES:
        same_severity = [row for row in rows if row.finding.severity == severity]
        left_out.extend(same_severity[MAX_ANNOTATIONS:])
        yield from map(_annotation, same_severity[:MAX_ANNOTATIONS])
    notices = list(outcome.notes)
    if left_out:
        notices.insert(0, _remainder(left_out))
    for notice in notices[:MAX_ANNOTATIONS]:
        start = begun("notice", {"title": _TITLE})
        yield command(start, visible(notice))
    yield f"{_TITLE}: {conclusion(outcome)}"


def _annotation(row: DumpFinding) -> str:
    finding, verdict = row.finding, row.verdict
    properties = {"title": f"{finding.code} {finding.name}"}
    if verdict is not None:
        properties = {"file": verdict.path, **properties}
    start = begun(finding.severity, properties)
    return command(start, sentence(finding, verdict, LONGEST_LINE - len(start)))


def _remainder(left_out: Sequence[DumpFinding]) -> str:
    more = counted(len(left_out), "more finding")
    counts = ", ".join(severity_counts(row.finding for row in left_out))
    return f"{more} ({counts}): see the step summary, or -f text"
