"""Verdicts as JUnit's XML: a suite for each dump, a test case in it for each rule.

There is no one schema. What is written here is within what Ant's and Jenkins's allow: a test
case has one outcome, a suite has properties, cases and output, in that order, and all attributes
that either asks for.
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
from gradtool.report.check.words import exception, selection, sentence
from gradtool.report.escaping import brief, visible
from gradtool.report.model import Style
from gradtool.shortening import LONGEST_LINE

_ALL: Final = "all dumps"

_Reason: TypeAlias = Callable[[ActiveRule], str | None]
"""Why a rule did not judge what a suite is about; None where it did."""


def render(outcome: CheckOutcome, style: Style) -> str:  # noqa: ARG001
    """The outcome as a `<testsuites>`, in ASCII, so that no locale spoils it."""
    root = ET.Element("testsuites")
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    suites = [_of_dump(verdict, outcome) for verdict in outcome.verdicts]
    if (together := _of_all(outcome)) is not None:
        suites.append(together)
    for number, suite in enumerate(suites):
        suite.set("id", str(number))
        suite.set("timestamp", now)
        root.append(suite)
    ET.indent(root)
    text = ET.tostring(root, encoding="us-ascii", xml_declaration=False).decode("ascii")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _of_dump(verdict: Verdict, outcome: CheckOutcome) -> ET.Element:
    def reason(rule: ActiveRule) -> str | None:  # noqa: ARG001
        if verdict.summary is not None:
            return None
        return f"not judged: {sentence(verdict.findings[0], verdict, LONGEST_LINE)}"

    rules = [one for one in outcome.policy.rules.values() if not one.rule.across_dumps]
    return _suite(_named(verdict.path), rules, verdict, outcome, reason)


def _of_all(outcome: CheckOutcome) -> ET.Element | None:
    """What is judged over several dumps, if anything is."""
    rules = [one for one in outcome.policy.rules.values() if one.rule.across_dumps]
    if not rules:
        return None

    def reason(rule: ActiveRule) -> str | None:
        idle = not any(rule.thresholds.values())
        return f"not judged: {_settings(rule)}" if idle else None

    return _suite(_ALL, rules, outcome, outcome, reason)


def _suite(
    name: str,
    rules: Sequence[ActiveRule],
    judged: Verdict | CheckOutcome,
    outcome: CheckOutcome,
    reason: _Reason,
) -> ET.Element:
    policy = outcome.policy
    verdict = judged if isinstance(judged, Verdict) else None
    suite = ET.Element("testsuite", name=name, package=name, hostname="localhost")
    properties = ET.SubElement(suite, "properties")
    for key, value in _properties(rules, judged, outcome):
        ET.SubElement(properties, "property", name=key, value=value)
    for rule in rules:
        found = [one for one in judged.findings if one.code == rule.rule.code]
        failing = [one for one in found if policy.fails(one.severity)]
        suite.append(_case(name, rule, failing, verdict, reason(rule)))
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
    rule: ActiveRule,
    failing: Sequence[Finding],
    verdict: Verdict | None,
    idle: str | None,
) -> ET.Element:
    name = f"{rule.rule.code} {rule.rule.name}"
    case = ET.Element("testcase", name=name, classname=suite, time="0")
    if failing:
        lines = [sentence(finding, verdict) for finding in failing]
        more = f" (and {counted(len(lines) - 1, 'more finding')})" if lines[1:] else ""
        message = sentence(failing[0], verdict, LONGEST_LINE) + more
        # With the code in front no line begins as a command to a CI's runner does.
        text = _text(f"{rule.rule.code}: {line}" for line in lines)
        ET.SubElement(case, "failure", type=name, message=message).text = text
    elif idle is not None:
        ET.SubElement(case, "skipped", message=brief(idle))
    return case


def _properties(
    rules: Iterable[ActiveRule], judged: Verdict | CheckOutcome, outcome: CheckOutcome
) -> Iterator[tuple[str, str]]:
    """What was judged, and by what: every threshold in force, by its name in a configuration."""
    policy = outcome.policy
    yield "fail_on", policy.fail_on
    if policy.config is not None:
        yield "config", visible(policy.config)
    if isinstance(judged, Verdict) and judged.step is not None:
        yield "step", str(judged.step)
    if outcome.baseline is not None:
        yield "baseline", visible(outcome.baseline)
    yield from selection(outcome)
    for rule in rules:
        yield f"{rule.rule.code}.severity", rule.severity
        for name, value in threshold_texts(rule.thresholds):
            yield f"{rule.rule.code}.{name}", visible(value)
    for number, override in enumerate(policy.overrides, start=1):
        yield f"override {number}", visible(exception(override))


def _output(judged: Verdict | CheckOutcome, policy: Policy) -> Iterator[str]:
    """Findings that do not fail, for which Ant's test cases have no place, and notes."""
    verdict = judged if isinstance(judged, Verdict) else None
    for finding in judged.findings:
        if not policy.fails(finding.severity):
            about = f"{finding.severity} {finding.code} {finding.name}"
            yield f"{about}: {sentence(finding, verdict)}"
    yield from (f"note: {visible(note)}" for note in judged.notes)


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines)


def _settings(rule: ActiveRule) -> str:
    return ", ".join(f"{name} is {value}" for name, value in threshold_texts(rule.thresholds))


def _named(path: str) -> str:
    """The path as a name, which must not be blank."""
    shown = visible(path)
    return shown if shown.strip() else repr(path)
