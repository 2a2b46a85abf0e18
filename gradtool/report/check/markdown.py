"""Verdicts for job summaries and pull requests: GitHub's Markdown, within GitHub's bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

from gradtool.core.figures import counted, precise
from gradtool.core.judging.rule import FAMILIES, threshold_texts
from gradtool.core.judging.verdict import CheckOutcome, Verdict
from gradtool.report.check.rows import DumpFinding, most_important_first, with_details
from gradtool.report.check.words import (
    conclusion,
    policy_settings,
    selection,
    status_words,
    tensors_of,
)
from gradtool.report.escaping import brief
from gradtool.report.inspect.markdown import code, escaped, listed
from gradtool.report.model import Style

Item = TypeVar("Item")

MOST_DUMPS: Final = 200
"""Rows of the table of dumps."""

_LONGEST_NAME: Final = 200
_FINDINGS_ROOM: Final = 200_000
_OTHER_ROOM: Final = 50_000
"""Bytes for the table of findings, and for each other list. A name takes up to ten for each
character, so that 200 dumps take up to 420,000, and all of a summary less than 800,000; GitHub
refuses a summary of more than 1 MiB.
"""


def render(outcome: CheckOutcome, style: Style) -> str:
    """A heading with the verdict, tables of dumps and of findings, and the policy."""
    return "\n".join(_lines(outcome, style)) + "\n"


def _lines(outcome: CheckOutcome, style: Style) -> Iterator[str]:
    yield f"### gradtool check: {'FAILED' if outcome.exit_code else 'ok'}"
    yield ""
    yield escaped(conclusion(outcome)) + "."
    yield ""
    yield from _dumps(outcome)
    rows = most_important_first(outcome)
    if rows:
        yield ""
        yield from _findings([*with_details(rows)] if style.show_all else rows)
    yield from _notes(outcome)
    yield ""
    yield from _policy(outcome)


def _dumps(outcome: CheckOutcome) -> Iterator[str]:
    yield "| verdict | dump | step | norm | errors | warnings |"
    yield "| :--- | :--- | ---: | ---: | ---: | ---: |"
    failed_first = sorted(outcome.verdicts, key=lambda verdict: not verdict.failed)
    yield from map(_dump, failed_first[:MOST_DUMPS])
    if left_out := failed_first[MOST_DUMPS:]:
        failed = sum(verdict.failed for verdict in left_out)
        yield ""
        yield f"Not listed: {counted(len(left_out), 'more dump')}, of which {failed:,} failed."


def _dump(verdict: Verdict) -> str:
    counts = Counter(finding.severity for finding in verdict.findings)
    step, summary = verdict.step, verdict.summary
    return _row(
        [
            f"**{status_words(verdict)}**" if verdict.failed else status_words(verdict),
            _name(verdict.path),
            "" if step is None else str(step),
            "" if summary is None else precise(summary.norm),
            str(counts["error"]),
            str(counts["warning"]),
        ]
    )


def _findings(rows: Sequence[DumpFinding]) -> Iterator[str]:
    yield "| severity | rule | dump | tensor | finding |"
    yield "| :--- | :--- | :--- | :--- | :--- |"
    yield from _fitting(rows, _finding, "more finding", _FINDINGS_ROOM)


def _finding(row: DumpFinding) -> str:
    finding, verdict = row.finding, row.verdict
    tensors = tensors_of(finding)
    message = brief(finding.message)
    position = f" (at byte {finding.byte})" if finding.byte is not None else ""
    dump = verdict.path if verdict is not None else None
    file = finding.file if finding.file != dump else None
    return _row(
        [
            finding.severity,
            f"{finding.code} {finding.name}",
            _name(dump) if dump is not None else "all",
            "" if tensors is None else _name(tensors),
            (f"{_name(file)}: " if file is not None else "") + escaped(message + position),
        ]
    )


def _notes(outcome: CheckOutcome) -> Iterator[str]:
    notes: list[tuple[str | None, str]] = [(None, note) for note in outcome.notes]
    notes += [(verdict.path, note) for verdict in outcome.verdicts for note in verdict.notes]
    if notes:
        yield ""
        yield from _fitting(notes, _note, "more note", _OTHER_ROOM)


def _note(note: tuple[str | None, str]) -> str:
    path, text = note
    return listed(brief(text)) if path is None else f"- {_name(path)}: {_text(text)}"


def _policy(outcome: CheckOutcome) -> Iterator[str]:
    """A folded list of thresholds and all other settings that the verdict depends on."""
    yield "<details><summary>Judged by</summary>"
    yield ""
    families = FAMILIES.values()  # whose rules have a table of their own below
    settings = [pair for pair in policy_settings(outcome.policy) if pair[0] not in families]
    settings.extend(selection(outcome))
    if outcome.baseline is not None:
        settings.append(("baseline", brief(outcome.baseline)))
    if outcome.against is not None:
        settings.append(("against", brief(outcome.against)))
    yield from _fitting(settings, _setting, "more setting", _OTHER_ROOM)
    yield ""
    yield "| rule | severity | thresholds |"
    yield "| :--- | :--- | :--- |"
    for active in outcome.policy.rules.values():
        pairs = threshold_texts(active.thresholds)
        thresholds = " ".join(f"{name}={value}" for name, value in pairs)
        yield _row([f"{active.rule.code} {active.rule.name}", active.severity, _text(thresholds)])
    yield ""
    yield "</details>"


def _setting(setting: tuple[str, str]) -> str:
    label, value = setting
    return f"- **{label}**: {_text(value)}"


def _fitting(
    items: Sequence[Item], line: Callable[[Item], str], what: str, room: int
) -> Iterator[str]:
    """A line for each of `items`, as long as `room` bytes hold them; then how many are left out."""
    for index, item in enumerate(items):
        text = line(item)
        room -= len(text.encode()) + 1
        if room < 0:
            yield ""
            yield _not_listed(len(items) - index, what)
            return
        yield text


def _not_listed(count: int, what: str) -> str:
    return f"Not listed: {counted(count, what)}."


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _name(text: str) -> str:
    return code(brief(text, _LONGEST_NAME))


def _text(text: str) -> str:
    return escaped(brief(text))
