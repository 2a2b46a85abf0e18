"""Differences as JUnit's XML: a suite for each section, a test case in it for each pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from gradtool.core.comparing.words import bounds, details, other_details, sentence
from gradtool.core.figures import json_number
from gradtool.report.diff.words import notes
from gradtool.report.escaping import brief, visible
from gradtool.report.junit import Failure, case_of, document, suite_of
from gradtool.report.model import Style

if TYPE_CHECKING:
    from gradtool.core.comparing.difference import Difference, TensorDifference

_WHOLE: Final = "both dumps"


def render(difference: Difference, style: Style) -> str:  # noqa: ARG001
    """A suite for each section, and one for what is said of the dumps as a whole."""
    members: dict[str, list[TensorDifference]] = {}
    for tensor in difference.tensors:
        members.setdefault(tensor.a.section, []).append(tensor)
    suites = [_section(name, tensors, difference) for name, tensors in members.items()]
    return document([_whole(difference), *suites])


def _section(
    section: str, tensors: Sequence[TensorDifference], difference: Difference
) -> ET.Element:
    name = f"section {visible(section)}" if section else "tensors"
    cases = [case_of(name, visible(tensor.name), _failure(tensor)) for tensor in tensors]
    return suite_of(name, cases, properties=_settings(difference), output=(), elapsed_s=0.0)


def _failure(tensor: TensorDifference) -> Failure | None:
    if tensor.same:
        return None
    figures = (
        ("rel_l2", tensor.rel_l2),
        ("cosine", tensor.cosine),
        ("best_scale", tensor.best_scale),
        ("max_abs_diff", tensor.max_abs_diff),
    )
    lines = [f"{name} {json_number(value)}" for name, value in figures if value is not None]
    return Failure("differs", brief(details(tensor)), (details(tensor), *lines))


def _whole(difference: Difference) -> ET.Element:
    """Whether the dumps are the same, what has no pair, and what is no gradient."""
    output = [f"diagnosis: {one.code}: {visible(one.text)}" for one in difference.diagnosis]
    output += [f"note: {visible(note)}" for note in notes(difference)]
    told = sentence(difference)
    failure = None if difference.same else Failure("differs", told, (told, *output))
    cases = [case_of(_WHOLE, "same", failure)]
    for side, names in (("A", difference.only_in_a), ("B", difference.only_in_b)):
        why = f"only in {side}"
        missing = Failure("only", why, (why,))
        cases += [case_of(_WHOLE, visible(name), missing) for name in names]
    for item in difference.not_compared:
        unknown = Failure("not compared", item.reason, (item.reason,))
        cases.append(case_of(_WHOLE, visible(item.name), unknown))
    for other in difference.others:
        apart = None
        if not other.identical:
            apart = Failure("differs", other_details(other), (other_details(other),))
        cases.append(case_of(_WHOLE, visible(other.name), apart))
    return suite_of(
        _WHOLE,
        cases,
        properties=_settings(difference),
        output=output,
        elapsed_s=difference.elapsed_s,
    )


def _settings(difference: Difference) -> Iterator[tuple[str, str]]:
    """What was compared, and within what."""
    yield "a", visible(difference.a.path)
    yield "b", visible(difference.b.path)
    yield "tolerance", bounds(difference) or "none: the same bits"
