"""Pages of HTML: one file that asks the network for nothing, runs nothing and is whole by itself.

Colours are those of light pages and dark ones, tables have captions and heads that screen readers
tell, and what bars show stands beside them as a number.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from html import escape
from typing import Final

from gradtool.report.grid import Grid

_STYLE: Final = """
:root { color-scheme: light dark; --red: #b3261e; --yellow: #7a5900; --line: #8886; }
@media (prefers-color-scheme: dark) { :root { --red: #ff8a80; --yellow: #e6c35c; } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
h1, dd, th, td { overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; }
dt { font-weight: bold; } dd { margin: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; }
th, td { border-bottom: 1px solid var(--line); padding: 0.15rem 0.6rem; text-align: left; }
th { font-weight: normal; } thead th { font-weight: bold; white-space: nowrap; }
.n { text-align: right; white-space: nowrap; }
.alarming { color: var(--red); } .notable { color: var(--yellow); } .minor { opacity: 0.75; }
svg { display: block; } rect { fill: currentColor; }
.picture { height: auto; max-width: 100%; }
.picture text { fill: currentColor; font-size: 12px; } .end { text-anchor: end; }
.norm { fill: none; stroke: currentColor; stroke-linecap: round; } .axis { stroke: var(--line); }
.mark { fill: none; stroke: currentColor; stroke-width: 2; } .full { fill: currentColor; }
.key { list-style: none; padding: 0; } .key svg { display: inline; vertical-align: middle; }
"""

_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"
)
"""What browsers may load for a page: nothing but the style that is in it."""

_BAR: Final = 120
"""Columns of the longest bar, in CSS pixels."""

MOST_ROWS: Final = 2_000
"""Rows of a table: more than anybody reads, and few enough for a browser."""


def page(title: str, parts: Iterable[str]) -> str:
    """A page with a heading, which is its title too, and parts that are HTML."""
    head = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
    )
    body = "\n".join((f"<h1>{escape(title)}</h1>", *filter(None, parts)))
    return f"{head}{body}\n</main>\n</body>\n</html>\n"


def paragraph(text: str) -> str:
    """A paragraph of text."""
    return f"<p>{escape(text)}</p>"


def heading(text: str) -> str:
    """The heading of a part."""
    return f"<h2>{escape(text)}</h2>"


def listing(items: Iterable[str]) -> str:
    """A list of sentences; "" for none."""
    points = [f"<li>{escape(item)}</li>" for item in items]
    return "\n".join(("<ul>", *points, "</ul>")) if points else ""


def labelled(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of labels and values; "" for none."""
    items = [f"<dt>{escape(label)}</dt><dd>{escape(value)}</dd>" for label, value in pairs]
    return "\n".join(("<dl>", *items, "</dl>")) if items else ""


def table(title: str, grid: Grid, bars: Iterable[float] | None = None) -> str:
    """A heading and a table; with `bars`, a bar for each row, each from 0 to 1 long."""
    lengths = [None] * len(grid.rows) if bars is None else [*bars]
    rows = (
        f'<tr class="{row.mood}">{"".join(_cells(row.cells, grid.numeric))}{_bar(length)}</tr>'
        for row, length in zip(grid.rows, lengths, strict=True)
    )
    heads = [
        f'<th scope="col"{_class(is_number)}>{escape(header)}</th>'
        for header, is_number in zip(grid.headers, grid.numeric, strict=True)
    ]
    if bars is not None:
        heads.append("<td></td>")
    label = escape(title)
    return "\n".join(
        (
            heading(title),
            f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">',
            f"<table>\n<thead><tr>{''.join(heads)}</tr></thead>\n<tbody>",
            *rows,
            "</tbody>\n</table>\n</div>",
        )
    )


def _cells(cells: Iterable[str], numeric: Iterable[bool]) -> Iterator[str]:
    for at, (cell, is_number) in enumerate(zip(cells, numeric, strict=True)):
        tag, scope = ("td", "") if at else ("th", ' scope="row"')
        yield f"<{tag}{scope}{_class(is_number)}>{escape(cell)}</{tag}>"


def _class(is_number: bool) -> str:
    return ' class="n"' if is_number else ""


def _bar(length: float | None) -> str:
    if length is None:
        return ""
    width = round(_BAR * length)
    rect = f'<rect width="{width}" height="10"/>'
    return f'<td><svg width="{_BAR}" height="10" aria-hidden="true">{rect}</svg></td>'
