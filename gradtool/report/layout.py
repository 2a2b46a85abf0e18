"""Laying tables and paragraphs out in columns of a terminal, with or without colour.

Rows are padded here rather than by `rich.table`, which takes minutes over 100,000 of them;
rich knows how wide a character is and how to write a style.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.color import ColorSystem
from rich.style import Style

from gradtool.report.escaping import visible
from gradtool.report.grid import Grid, Mood

GAP: Final = "  "
ELLIPSIS: Final = "…"
NARROWEST_NAME: Final = 16

WIDEST_PADDING: Final = 160
"""Columns that cells are padded to at most: one long name must not make all rows as long."""

_FILLER: Final = "\ue000"
"""A character of nobody's, which no text that is shown has."""

_BEFORE_NUMBER: Final = re.compile(r"^( *).*?\.(?=\d+\.)")

# Basic colours and weights only: those follow the terminal's theme, light or dark.
HEADER: Final = Style(bold=True)
MOODS: Final[dict[Mood, Style]] = {
    "plain": Style(),
    "healthy": Style(color="green"),
    "notable": Style(color="yellow"),
    "alarming": Style(color="red"),
    "minor": Style(dim=True),
}


class Painter:
    """Writes text in styles as ANSI sequences, or without any."""

    def __init__(self, *, colour: bool) -> None:
        self._system = ColorSystem.STANDARD if colour else None

    def paint(self, text: str, style: Style) -> str:
        """`text` in `style`, unless colours are off."""
        return style.render(text, color_system=self._system) if self._system else text


def grid_lines(grid: Grid, width: int | None, painter: Painter) -> Iterator[str]:
    """The header and rows of `grid`, in at most `width` columns of the terminal if possible.

    Columns of names are shortened, to no less than 16 together; figures are never cut.
    """
    columns = [
        _aligned(header, cells, numeric=numeric)
        for header, cells, numeric in zip(
            grid.headers,
            zip(*(row.cells for row in grid.rows), strict=True),
            grid.numeric,
            strict=True,
        )
    ]
    if width is not None:
        _fit(columns, grid.shortened, width)
    header, *lines = (GAP.join(cells).rstrip() for cells in zip(*columns, strict=True))
    yield painter.paint(header, HEADER)
    for row, line in zip(grid.rows, lines, strict=True):
        yield painter.paint(line, MOODS[row.mood])


def _fit(columns: list[list[str]], shortened: Sequence[int], width: int) -> None:
    """Shorten columns so that lines have a width, each to its share of it if that is too little."""
    others = (column[0] for at, column in enumerate(columns) if at not in shortened)
    room = width - sum(map(cell_len, others)) - len(GAP) * (len(columns) - 1)
    widths = {at: max(map(cell_len, columns[at])) for at in shortened}
    for left, at in enumerate(sorted(widths, key=widths.__getitem__)):
        share = max(room // (len(widths) - left), NARROWEST_NAME // len(widths))
        if share < widths[at]:
            columns[at] = _fitted(columns[at], share)
        room -= min(share, widths[at])


def _aligned(header: str, cells: Sequence[str], *, numeric: bool) -> list[str]:
    """A column's header and cells, all of one width; numbers with their points in line."""
    column = [header, *(_point_aligned(cells) if numeric else cells)]
    width = min(max(map(cell_len, column)), WIDEST_PADDING)
    return [text.rjust(width) if numeric else _padded(text, width) for text in column]


def _point_aligned(cells: Sequence[str]) -> list[str]:
    """Decimal points in line, so that magnitudes compare; words such as NaN at the right."""
    tails = [len(cell) - len(cell.partition(".")[0]) for cell in cells]
    longest = max(tails)
    return [
        cell + " " * (longest - tail) if cell[-1:].isdigit() else cell
        for cell, tail in zip(cells, tails, strict=True)
    ]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _fitted(column: Sequence[str], width: int) -> list[str]:
    return [_padded(shortened_name(text.rstrip(), width), width) for text in column]


def shortened_name(text: str, width: int) -> str:
    """A tensor's name in at most `width` columns, what says least left out.

    First what stands before the first number, `model.layers.` say, then the middle.
    """
    if cell_len(text) <= width:
        return text
    text = _BEFORE_NUMBER.sub(rf"\1{ELLIPSIS}", text, count=1)
    if cell_len(text) <= width:
        return text
    head = (width - 1) // 3
    tail = width - 1 - head
    return set_cell_size(text, head) + ELLIPSIS + set_cell_size(text[::-1], tail)[::-1]


def paragraph(text: str, width: int | None, indent: str) -> list[str]:
    """`text` in lines of at most `width` columns, those after the first one indented."""
    if width is None or cell_len(text) <= width:
        return [text]
    # What takes two columns is two characters where lines are measured.
    wide = text if text.isascii() else "".join(f"{c}{_FILLER * (cell_len(c) - 1)}" for c in text)
    lines = textwrap.wrap(
        wide, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    # A word that is no command to a runner where it stands may be one where a line begins.
    return [visible(line.replace(_FILLER, "")) for line in lines]
