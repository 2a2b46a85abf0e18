"""Verdicts as JUnit's XML: a suite for each dump, a test case in it for each rule.

There is no single schema. What is written here is valid by Ant's and by Jenkins's: a test case has
one outcome, a suite has properties, cases and output, in that order, and all attributes that
either requires.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeAlias
from xml.etree import ElementTree as ET

from gradtool.core.figures import counted
from gradtool.core.judging.policy import ActiveRule, Policy
from gradtool.core.judging.rule import threshold_texts
from gradtool.core.judging.verdict import CheckOutcome, Finding, Verdict
from gradtool.report.check.words import override_text, selection, sentence
from gradtool.report.escaping import brief, visible
from gradtool.report.model import Style
from gradtool.shortening import LONGEST_LINE

_ALL: Final = "all dumps"

_SkipReason: TypeAlias = Callable[[ActiveRule], str | None]
"""Gives the reason why a rule did not judge the dumps of a suite; None if it did."""


def render(outcome: CheckOutcome, style: Style) -> str:  # noqa: ARG001
    """The outcome as a `<testsuites>`, in ASCII, which every locale writes alike."""
    root = ET.Element("testsuites")
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    suites = [_dump_suite(verdict, outcome) for verdict in outcome.verdicts]
    if (run_suite := _run_suite(outcome)) is not None:
        suites.append(run_suite)
    for number, suite in enumerate(suites):
        suite.set("id", str(number))
        suite.set("timestamp", now)
        root.append(suite)
    ET.indent(root)
    text = ET.tostring(root, encoding="us-ascii", xml_declaration=False).decode("ascii")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _dump_suite(verdict: Verdict, outcome: CheckOutcome) -> ET.Element:
    def skip_reason(active: ActiveRule) -> str | None:  # noqa: ARG001
        if verdict.is_judged:
            return None
        return f"not judged: {sentence(verdict.findings[0], verdict, LONGEST_LINE)}"

    rules = [active for active in outcome.policy.rules.values() if not active.rule.across_dumps]
    return _suite(_suite_name(verdict.path), rules, verdict, outcome, skip_reason)


def _run_suite(outcome: CheckOutcome) -> ET.Element | None:
    """The suite of the rules that judge all dumps together; None if no such rule is in force."""
    rules = [active for active in outcome.policy.rules.values() if active.rule.across_dumps]
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
    suite = ET.Element("testsuite", name=name, package=name, hostname="localhost")
    properties = ET.SubElement(suite, "properties")
    for key, value in _properties(rules, judged, outcome):
        ET.SubElement(properties, "property", name=key, value=value)
    for active in rules:
        findings = [finding for finding in judged.findings if finding.code == active.rule.code]
        failing = [finding for finding in findings if policy.fails(finding.severity)]
        suite.append(_case(name, active, failing, verdict, skip_reason(active)))
    suite.set("tests", str(len(rules)))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", "0")
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    suite.set("time", f"{judged.elapsed_s:.3f}")
    ET.SubElement(suite, "system-out").text = _text(_output(judged, policy))
    ET.SubElement(suite, "system-err").text = ""
    return suite


def _case(
    suite: str,
    active: ActiveRule,
    failing: Sequence[Finding],
    verdict: Verdict | None,
    skip_reason: str | None,
) -> ET.Element:
    name = f"{active.rule.code} {active.rule.name}"
    case = ET.Element("testcase", name=name, classname=suite, time="0")
    if failing:
        lines = [
            sentence(one, verdict) for finding in failing for one in (finding, *finding.details)
        ]
        more = f" (and {counted(len(failing) - 1, 'more finding')})" if failing[1:] else ""
        message = sentence(failing[0], verdict, LONGEST_LINE) + more
        # With the code in front no line looks like a command to a CI's runner.
        text = _text(f"{active.rule.code}: {line}" for line in lines)
        ET.SubElement(case, "failure", type=name, message=message).text = text
    elif skip_reason is not None:
        ET.SubElement(case, "skipped", message=brief(skip_reason))
    return case


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


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines)


def _settings(active: ActiveRule) -> str:
    return ", ".join(f"{name} is {value}" for name, value in threshold_texts(active.thresholds))


def _suite_name(path: str) -> str:
    """The path, in quotes where it is blank, as no name may be."""
    shown = visible(path)
    return shown if shown.strip() else repr(path)
