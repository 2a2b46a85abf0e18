"""Rules of `check` for people at a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from gradtool.core.judging.rule import Explained, Parameter, Rule, family, threshold_texts
from gradtool.report.inspect.table import labelled
from gradtool.report.layout import HEADER, Painter, paragraph
from gradtool.report.model import Style

_NAME_WIDTH = 18
_WIDEST = 100
"""Columns of a line of text: longer ones are hard to read, however wide the terminal."""


def listing(rules: Sequence[Rule], style: Style) -> str:
    """All rules, one a line, under the names of their families."""
    return "\n".join(_listing(rules, style, Painter(colour=style.colour))) + "\n"


def _listing(rules: Sequence[Rule], style: Style, painter: Painter) -> Iterator[str]:
    for number, (name, members) in enumerate(groupby(rules, lambda rule: family(rule.code))):
        if number:
            yield ""
        yield painter.paint(name, HEADER)
        for rule in members:
            line = f"{rule.code}  {rule.name:<{_NAME_WIDTH}} {rule.severity:<8} {rule.summary}"
            yield from paragraph(line, style.width, " " * (_NAME_WIDTH + 17))


def explanation(rule: Explained, style: Style) -> str:
    """The documentation of one rule, with its parameters and their defaults."""
    return "\n".join(_explanation(rule, style, Painter(colour=style.colour))) + "\n"


def _explanation(rule: Explained, style: Style, painter: Painter) -> Iterator[str]:
    width = min(style.width or _WIDEST, _WIDEST)
    kind = f"{family(rule.code)}, {rule.severity}" if isinstance(rule, Rule) else "diff's diagnosis"
    yield painter.paint(f"{rule.code} {rule.name} ({kind})", HEADER)
    yield from paragraph(rule.summary, width, "")
    yield ""
    yield from paragraph(rule.explanation, width, "")
    yield ""
    narrow = replace(style, width=width)
    yield from labelled([("threshold", rule.rationale)], narrow, painter)
    if isinstance(rule, Rule):
        yield from labelled(_parameters(rule), narrow, painter)
    yield from labelled([("remedy", rule.remedy)], narrow, painter)


def _parameters(rule: Rule) -> list[tuple[str, str]]:
    values = dict(threshold_texts(rule.defaults()))
    return [
        ("sets", f"{parameter.name} = {values[parameter.name]}: {_meaning(parameter)}")
        for parameter in rule.parameters
    ]


def _meaning(parameter: Parameter) -> str:
    return f"{parameter.meaning} ({parameter.range})"
