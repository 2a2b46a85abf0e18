"""JUnit's XML: suites of test cases, as reports of several commands are written in it.

There is no single schema. What is written here is valid by Ant's and by Jenkins's: a test case has
one outcome, a suite has properties, cases and output, in that order, and all attributes that
either requires.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from gradtool.report.escaping import brief, visible


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a test case failed: the kind of failure, a line, and all lines, which are safe to show.

    No line may look like a command to a CI's runner.
    """

    kind: str
    message: str
    lines: tuple[str, ...]


def document(suites: Iterable[ET.Element]) -> str:
    """The suites as a `<testsuites>`, in ASCII, which every locale writes alike."""
    root = ET.Element("testsuites")
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    for number, suite in enumerate(suites):
        suite.set("id", str(number))
        suite.set("timestamp", now)
        root.append(suite)
    ET.indent(root)
    text = ET.tostring(root, encoding="us-ascii", xml_declaration=False).decode("ascii")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def suite_of(
    name: str,
    cases: Sequence[ET.Element],
    *,
    properties: Iterable[tuple[str, str]],
    output: Iterable[str],
    elapsed_s: float,
) -> ET.Element:
    """A suite with what was set, its cases, and lines for which cases have no place."""
    suite = ET.Element("testsuite", name=name, package=name, hostname="localhost")
    listed = ET.SubElement(suite, "properties")
    for key, value in properties:
        ET.SubElement(listed, "property", name=key, value=value)
    suite.extend(cases)
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", "0")
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    suite.set("time", f"{elapsed_s:.3f}")
    ET.SubElement(suite, "system-out").text = "\n".join(output)
    ET.SubElement(suite, "system-err").text = ""
    return suite


def case_of(
    suite: str, name: str, failure: Failure | None = None, skipped: str | None = None
) -> ET.Element:
    """A test case that passed, failed, or was skipped for a reason."""
    case = ET.Element("testcase", name=name, classname=suite, time="0")
    if failure is not None:
        told = ET.SubElement(case, "failure", type=failure.kind, message=failure.message)
        told.text = "\n".join(failure.lines)
    elif skipped is not None:
        ET.SubElement(case, "skipped", message=brief(skipped))
    return case


def not_blank(text: str) -> str:
    """A text from a file, in quotes where it is blank, as no name may be."""
    shown = visible(text)
    return shown if shown.strip() else repr(text)
