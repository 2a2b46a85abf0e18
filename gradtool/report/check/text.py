"""Verdicts for people at a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from gradtool.core.judging.rule import Severity
from gradtool.core.judging.verdict import CheckOutcome, Finding, Verdict
from gradtool.report.check.words import (
    conclusion,
    facts,
    kind_words,
    policy_settings,
    selection,
    sentence,
    status_words,
)
from gradtool.report.escaping import brief
from gradtool.report.inspect.table import labelled
from gradtool.report.layout import HEADER, MOODS, Painter, paragraph
from gradtool.report.model import Style
from gradtool.report.words import left_out
from gradtool.shortening import LONGEST_LINE

SHOWN = 5
"""Findings of one rule in one dump that are listed without --all."""

_INDENT = "    "


def render(outcome: CheckOutcome, style: Style) -> str:
    """A line for each dump with its findings below it, the policy, and a conclusion."""
    painter = Painter(colour=style.colour)
    return "\n".join(_lines(outcome, style, painter)) + "\n"


def _lines(outcome: CheckOutcome, style: Style, painter: Painter) -> Iterator[str]:
    for verdict in outcome.verdicts:
        if verdict.findings or verdict.essential_notes or not style.quiet:
            yield from _verdict(verdict, style, painter)
    if outcome.findings:
        yield painter.paint("all dumps together: FAILED", MOODS["alarming"])
        yield from _findings(outcome.findings, None, style, painter)
    if not style.quiet:
        yield from labelled(selection(outcome), style, painter)
        known = filter(None, (outcome.baseline, outcome.against))
        yield from labelled((("compared to", brief(one)) for one in known), style, painter)
    if style.verbose:
        yield from labelled(policy_settings(outcome.policy), style, painter)
    yield from labelled((("note", brief(note)) for note in outcome.notes), style, painter)
    codes = sorted({finding.code for finding in outcome.all_findings})
    if codes and not (style.quiet or style.in_python):
        yield from labelled([("more", f"gradtool explain {' '.join(codes)}")], style, painter)
    mood = MOODS["alarming" if outcome.failed else "healthy"]
    yield painter.paint(conclusion(outcome), mood)


def _verdict(verdict: Verdict, style: Style, painter: Painter) -> Iterator[str]:
    mood = MOODS["alarming" if verdict.failed else "healthy"]
    listed = ", ".join(facts(verdict))
    for status in map(kind_words, verdict.kinds) if verdict.kinds else (status_words(verdict),):
        text = f": {status} ({listed})" if listed else f": {status}"
        path = brief(verdict.path, LONGEST_LINE - len(text))
        first, *following = paragraph(path + text, style.width, _INDENT)
        yield painter.paint(first, mood)
        yield from following
    yield from _findings(verdict.findings, verdict, style, painter)
    for note in verdict.essential_notes if style.quiet else verdict.notes:
        yield from paragraph(f"  note: {brief(note)}", style.width, _INDENT)


def _findings(
    findings: Sequence[Finding], verdict: Verdict | None, style: Style, painter: Painter
) -> Iterator[str]:
    def kind(finding: Finding) -> tuple[str, str, Severity]:
        return finding.code, finding.name, finding.severity

    for (code, name, severity), members in groupby(findings, kind):
        group = list(members)
        shown = group if style.show_all else group[:SHOWN]
        for finding in shown:
            head = f"  {severity} {code} {name}:"
            text = f"{head} {sentence(finding, verdict, LONGEST_LINE - len(head) - 1)}"
            first, *following = paragraph(text, style.width, _INDENT)
            mood = MOODS["alarming"] if severity == "error" else HEADER
            yield painter.paint(head, mood) + first[len(head) :]
            yield from following
            if style.show_all:
                yield from _details(finding, verdict, style)
        if hidden := len(group) - len(shown):
            more = left_out(f"{hidden:,} more of {code}", style)
            yield painter.paint(f"{_INDENT}{more}", MOODS["minor"])


def _details(finding: Finding, verdict: Verdict | None, style: Style) -> Iterator[str]:
    """A line for each tensor that the finding is about, where these are several."""
    for detail in finding.details:
        text = f"{_INDENT}- {sentence(detail, verdict, LONGEST_LINE)}"
        yield from paragraph(text, style.width, _INDENT * 2)
