"""Verdicts as annotations of a GitHub workflow: commands to its runner, one a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from gradtool.core.figures import counted
from gradtool.core.rule import SEVERITIES
from gradtool.core.verdict import CheckOutcome
from gradtool.report.check_rows import Row, most_important_first, shortened
from gradtool.report.check_words import conclusion, sentence, tally
from gradtool.report.escaping import visible
from gradtool.report.model import Style

MOST: Final = 10
"""Annotations of one kind that GitHub shows of a step."""

_TITLE: Final = "gradtool check"
_LONGEST: Final = 1000


def render(outcome: CheckOutcome, style: Style) -> str:  # noqa: ARG001
    """The most important findings as annotations, how many there are more, and a conclusion."""
    return "\n".join(_lines(outcome)) + "\n"


def _lines(outcome: CheckOutcome) -> Iterator[str]:
    rows = most_important_first(outcome)
    left_out: list[Row] = []
    for severity in SEVERITIES:
        of_kind = [row for row in rows if row.finding.severity == severity]
        left_out.extend(of_kind[MOST:])
        yield from map(_annotation, of_kind[:MOST])
    notices = list(outcome.notes)
    if left_out:
        notices.insert(0, _remainder(left_out))
    for notice in notices[:MOST]:
        yield _command("notice", {"title": _TITLE}, notice)
    yield f"{_TITLE}: {conclusion(outcome)}"


def _annotation(row: Row) -> str:
    finding, verdict = row.finding, row.verdict
    properties = {"title": f"{finding.code} {finding.name}"}
    if verdict is not None:
        properties = {"file": verdict.path, **properties}
    return _command(finding.severity, properties, sentence(finding, verdict))


def _remainder(left_out: Sequence[Row]) -> str:
    more = counted(len(left_out), "more finding")
    kinds = ", ".join(tally(row.finding for row in left_out))
    return f"{more} ({kinds}): see the step summary, or -f text"


def _command(name: str, properties: Mapping[str, str], message: str) -> str:
    """A line that the runner takes for that one command, whatever is in it."""
    spelled = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{name} {spelled}::{_data(message)}"


def _data(text: str) -> str:
    shown = shortened(visible(text), _LONGEST)
    return shown.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
