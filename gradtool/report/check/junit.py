"""Verdicts as JUnit's XML: a suite for each dump, a test case in it for each rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeAlias
from xml.etree import ElementTree as ET

from gradtool.core.figures import counted
from gradtool.core.judging.policy import ActiveRule, Policy
from gradtool.core.judging.rule import Rule, threshold_texts
from gradtool.core.judging.verdict import CheckOutcome, Finding, Verdict
from gradtool.report.check.words import override_text, selection, sentence
from gradtool.report.escaping import visible
from gradtool.report.junit import Failure, case_of, document, not_blank, suite_of
from gradtool.report.model import Style
from gradtool.shortening import LONGEST_LINE

_ALL: Final = "all dumps"

_SkipReason: TypeAlias = Callable[[ActiveRule], str | None]
"""Gives the reason why a rule did not judge the dumps of a suite; None if it did."""


def render(outcome: CheckOutcome, style: Style) -> str:  # noqa: ARG001
    """A suite for each dump, and one for what is judged over all."""
    suites = [_dump_suite(verdict, outcome) for verdict in outcome.verdicts]
    if (run_suite := _run_suite(outcome)) is not None:
        suites.append(run_suite)
    return document(suites)


def _dump_suite(verdict: Verdict, outcome: CheckOutcome) -> ET.Element:
    def skip_reason(active: ActiveRule) -> str | None:  # noqa: ARG001
        if verdict.is_judged:
            return None
        return f"not judged: {sentence(verdict.findings[0], verdict, LONGEST_LINE)}"

    rules = [one for one in outcome.policy.rules.values() if _is_of_dumps(one.rule)]
    return _suite(not_blank(verdict.path), rules, verdict, outcome, skip_reason)


def _is_of_dumps(rule: Rule) -> bool:
    """Whether its findings are those of single dumps."""
    return rule.marks_dumps or not rule.across_dumps


def _run_suite(outcome: CheckOutcome) -> ET.Element | None:
    """The suite of the rules that judge all dumps together; None if no such rule is in force."""
    rules = [one for one in outcome.policy.rules.values() if not _is_of_dumps(one.rule)]
    if not rules:
        return None

    def skip_reason(active: ActiveRule) -> str | None:
        idle = not any(active.thresholds.values())
        return f"not judged: {_settings(active)}" if idle else None

    return _suite(_ALL, rules, outcome, outcome, skip_reason)


def _suite(
    name: str,
    rules: Sequence[ActiveRule],
    judged: Verdict | CheckOutcome,
    outcome: CheckOutcome,
    skip_reason: _SkipReason,
) -> ET.Element:
    policy = outcome.policy
    verdict = judged if isinstance(judged, Verdict) else None
    cases = []
    for active in rules:
        findings = [finding for finding in judged.findings if finding.code == active.rule.code]
        failing = [finding for finding in findings if policy.fails(finding.severity)]
        failure = _failure(active, failing, verdict) if failing else None
        rule = f"{active.rule.code} {active.rule.name}"
        cases.append(case_of(name, rule, failure, skip_reason(active)))
    return suite_of(
        name,
        cases,
        properties=_properties(rules, judged, outcome),
        output=_output(judged, policy),
        elapsed_s=judged.elapsed_s,
    )


def _failure(active: ActiveRule, failing: Sequence[Finding], verdict: Verdict | None) -> Failure:
    lines = [sentence(one, verdict) for finding in failing for one in (finding, *finding.details)]
    more = f" (and {counted(len(failing) - 1, 'more finding')})" if failing[1:] else ""
    return Failure(
        kind=f"{active.rule.code} {active.rule.name}",
        message=sentence(failing[0], verdict, LONGEST_LINE) + more,
        # With the code in front no line looks like a command to a CI's runner.
        lines=tuple(f"{active.rule.code}: {line}" for line in lines),
    )


def _properties(
    rules: Iterable[ActiveRule], judged: Verdict | CheckOutcome, outcome: CheckOutcome
) -> Iterator[tuple[str, str]]:
    """What was judged, and every setting it was judged by, named as in a configuration."""
    policy = outcome.policy
    yield "fail_on", policy.fail_on
    if policy.config is not None:
        yield "config", visible(policy.config)
    if isinstance(judged, Verdict) and judged.step is not None:
        yield "step", str(judged.step)
    if outcome.baseline is not None:
        yield "baseline", visible(outcome.baseline)
    if outcome.against is not None:
        yield "against", visible(outcome.against)
    yield from selection(outcome)
    for active in rules:
        yield f"{active.rule.code}.severity", active.severity
        for name, value in threshold_texts(active.thresholds):
            yield f"{active.rule.code}.{name}", visible(value)
    for number, override in enumerate(policy.overrides, start=1):
        yield f"override {number}", visible(override_text(override))


def _output(judged: Verdict | CheckOutcome, policy: Policy) -> Iterator[str]:
    """Notes, and findings that do not fail, for which Ant's test cases have no place."""
    verdict = judged if isinstance(judged, Verdict) else None
    for finding in judged.findings:
        if not policy.fails(finding.severity):
            head = f"{finding.severity} {finding.code} {finding.name}"
            yield f"{head}: {sentence(finding, verdict)}"
    yield from (f"note: {visible(note)}" for note in judged.notes)


def _settings(active: ActiveRule) -> str:
    return ", ".join(f"{name} is {value}" for name, value in threshold_texts(active.thresholds))
