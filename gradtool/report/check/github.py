"""Verdicts as annotations of a GitHub workflow: commands to its runner, one a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from gradtool.core.figures import counted
from gradtool.core.judging.rule import SEVERITIES
from gradtool.core.judging.verdict import CheckOutcome
from gradtool.report.check.rows import DumpFinding, most_important_first
from gradtool.report.check.words import conclusion, sentence, severity_counts
from gradtool.report.escaping import visible
from gradtool.report.model import Style
from gradtool.shortening import LONGEST_LINE, LONGEST_NAME, shortened

MAX_ANNOTATIONS: Final = 10
"""Annotations of one severity that GitHub shows for a step."""

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
        start = _start("notice", {"title": _TITLE})
        yield _command(start, visible(notice))
    yield f"{_TITLE}: {conclusion(outcome)}"


def _annotation(row: DumpFinding) -> str:
    finding, verdict = row.finding, row.verdict
    properties = {"title": f"{finding.code} {finding.name}"}
    if verdict is not None:
        properties = {"file": verdict.path, **properties}
    start = _start(finding.severity, properties)
    return _command(start, sentence(finding, verdict, LONGEST_LINE - len(start)))


def _remainder(left_out: Sequence[DumpFinding]) -> str:
    more = counted(len(left_out), "more finding")
    counts = ", ".join(severity_counts(row.finding for row in left_out))
    return f"{more} ({counts}): see the step summary, or -f text"


def _start(name: str, properties: Mapping[str, str]) -> str:
    pairs = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{name} {pairs}::"


def _command(start: str, message: str) -> str:
    """A line that the runner reads as one command, whatever the message holds."""
    return start + shortened(_data(message), LONGEST_LINE - len(start))


def _property(text: str) -> str:
    encoded = _data(visible(text)).replace(":", "%3A").replace(",", "%2C")
    return shortened(encoded, LONGEST_NAME)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
