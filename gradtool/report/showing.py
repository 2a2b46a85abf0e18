"""Results of Python's calls, shown as the command line shows them."""

from __future__ import annotations

import html as markup
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.style import Style as RichStyle
from rich.text import Text

from gradtool.core.clip.outcome import ClipOutcome
from gradtool.core.comparing.difference import Difference
from gradtool.core.judging.verdict import CheckOutcome
from gradtool.core.measurement import Measurement
from gradtool.core.trends.trend import Trend
from gradtool.display import Displayed
from gradtool.report import (
    check_reporter,
    clip_reporter,
    diff_reporter,
    reporter,
    trend_reporter,
)
from gradtool.report.check.rows import dump_row
from gradtool.report.clip.rows import clip_rows
from gradtool.report.diff.columns import rows as diff_rows
from gradtool.report.inspect.arrangement import report_on
from gradtool.report.inspect.columns import tensor_row
from gradtool.report.model import Style, TrendReport
from gradtool.report.trend.rows import step_rows

NOTEBOOK_WIDTH: Final = 100
"""Columns of what notebooks show, which scroll what is wider."""

_COLOURS: Final = {"red": "#c33", "green": "#2a2", "yellow": "#a70"}
"""Of what is shown in colour: readable on white and on black."""


class _Kind(NamedTuple):
    """How one type of results is shown: as text in a format, and in rows."""

    text: Callable[[Any, str, Style], str]
    rows: Callable[[Any], Iterator[dict[str, Any]]]
    table: str = "table"
    fields: Callable[[dict[str, Any]], dict[str, Any]] = dict


def _inspected(measurement: Measurement, name: str, style: Style) -> str:
    return reporter(name)([report_on(measurement)], style)


def _clipped(outcome: ClipOutcome, name: str, style: Style) -> str:
    return clip_reporter(name)(outcome, style)


def _checked(outcome: CheckOutcome, name: str, style: Style) -> str:
    return check_reporter(name)(outcome, style)


def _compared(difference: Difference, name: str, style: Style) -> str:
    return diff_reporter(name)(difference, style)


def _followed(trend: Trend, name: str, style: Style) -> str:
    return trend_reporter(name)(TrendReport(trend), style)


def _tensors(measurement: Measurement) -> Iterator[dict[str, Any]]:
    return (tensor_row(measurement, tensor) for tensor in measurement.in_order)


def _dumps(outcome: CheckOutcome) -> Iterator[dict[str, Any]]:
    return map(dump_row, outcome.verdicts)


def _one_report(document: dict[str, Any]) -> dict[str, Any]:
    (report,) = document["reports"]
    return {"schema": document["schema"], "gradtool": document["gradtool"], **report}


_KINDS: Final[dict[type[Displayed], _Kind]] = {
    Measurement: _Kind(_inspected, _tensors, fields=_one_report),
    ClipOutcome: _Kind(_clipped, clip_rows),
    CheckOutcome: _Kind(_checked, _dumps, table="text"),
    Difference: _Kind(_compared, diff_rows),
    Trend: _Kind(_followed, step_rows),
}


def fields(result: Displayed) -> dict[str, Any]:
    """What `--format json` prints of a result."""
    kind = _KINDS[type(result)]
    return kind.fields(json.loads(kind.text(result, "json", Style())))


def rows(result: Displayed) -> list[dict[str, Any]]:
    """What a result consists of, in flat rows with the same keys."""
    return list(_KINDS[type(result)].rows(result))


def console(result: Displayed) -> _Table:
    """The table of a result, as wide and as colourful as the console that prints it."""
    return _Table(result)


@dataclass(frozen=True, slots=True)
class _Table:
    result: Displayed

    def text(self, width: int) -> Text:
        """The table in colours."""
        kind = _KINDS[type(self.result)]
        lines = kind.text(self.result, kind.table, Style(width=width, colour=True, in_python=True))
        return Text.from_ansi(lines.rstrip("\n"), no_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield self.text(options.max_width)


def html(result: Displayed) -> str:
    """The table of a result as preformatted text, in colours for light pages and dark ones."""
    text = _Table(result).text(NOTEBOOK_WIDTH)
    console = Console(width=10 * NOTEBOOK_WIDTH)
    lines = "".join(map(_span, text.render(console)))
    return f'<pre style="white-space: pre; overflow-x: auto; line-height: 1.25">{lines}</pre>'


def _span(segment: Segment) -> str:
    text = markup.escape(segment.text)
    looks = "; ".join(_looks(segment.style)) if segment.style is not None else ""
    return f'<span style="{looks}">{text}</span>' if looks else text


def _looks(style: RichStyle) -> Iterator[str]:
    if style.bold:
        yield "font-weight: bold"
    if style.dim:
        yield "opacity: 0.65"
    if style.color is not None and style.color.name in _COLOURS:
        yield f"color: {_COLOURS[style.color.name]}"
