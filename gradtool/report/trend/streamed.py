"""What is said of a run while it is followed: a line for each step, in formats that allow it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final, NamedTuple, TypeAlias

from gradtool.core.trends.trend import Trend
from gradtool.report.check.words import sentence
from gradtool.report.grid import Row
from gradtool.report.inspect.csv import cell
from gradtool.report.inspect.markdown import table
from gradtool.report.json_lines import encode
from gradtool.report.model import Style
from gradtool.report.trend.json import findings_fields, steps_fields
from gradtool.report.trend.line import finding_line, step_line
from gradtool.report.trend.rows import COLUMNS, step_rows
from gradtool.report.trend.words import NONE, whole_grid
from gradtool.shortening import LONGEST_LINE


class News(NamedTuple):
    """What is to be said: a trend that is one step, or what was found about several.

    `is_change` says that the step was told of before, `shows_path` that people are told its path.
    """

    trend: Trend
    is_change: bool
    shows_path: bool


Lines: TypeAlias = Callable[[News, Style], Iterator[str]]


def _text(news: News, style: Style) -> Iterator[str]:
    trend, is_change, shows_path = news
    yield from (finding_line(finding, style) + "\n" for finding in trend.findings)
    for step in trend.steps:
        yield step_line(trend, step, style, is_change=is_change, path=shows_path) + "\n"


def _json(news: News, style: Style) -> Iterator[str]:  # noqa: ARG001
    for fields in (*findings_fields(news.trend), *steps_fields(news.trend)):
        yield encode(fields) + "\n"


def _csv(news: News, style: Style) -> Iterator[str]:  # noqa: ARG001
    yield from (_csv_row(row.values()) for row in step_rows(news.trend))


def _csv_row(values: Iterable[object]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(map(cell, values))
    return out.getvalue()


def _markdown(news: News, style: Style) -> Iterator[str]:  # noqa: ARG001
    grid = whole_grid(news.trend, news.trend.steps)
    at = grid.headers.index("findings")
    for finding in news.trend.findings:
        cells = ["all steps together", *[NONE] * (len(grid.headers) - 1)]
        cells[at] = f"{finding.code} {sentence(finding, None, LONGEST_LINE)}"
        grid = replace(grid, rows=(*grid.rows, Row(tuple(cells))))
    yield from (f"{line}\n" for line in [*table(grid)][2:])


def _markdown_head(trend: Trend) -> str:
    return "".join(f"{line}\n" for line in table(whole_grid(trend, ())))


class Stream(NamedTuple):
    """A format: what stands before all lines, and the lines."""

    head: Callable[[Trend], str]
    lines: Lines


STREAMS: Final[Mapping[str, Stream]] = {
    "table": Stream(lambda _: "", _text),
    "json": Stream(lambda _: "", _json),
    "csv": Stream(lambda _: _csv_row(COLUMNS), _csv),
    "markdown": Stream(_markdown_head, _markdown),
}
"""The formats; CSV has steps only, as its report has."""
