"""The formats for people at a terminal: a table, and below it how each is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gradtool.report.formats.words import grid, told_by
from gradtool.report.inspect.table import labelled
from gradtool.report.layout import HEADER, Painter, grid_lines
from gradtool.report.model import Style

if TYPE_CHECKING:
    from gradtool.formats.known import KnownFormat


def render(known: Sequence[KnownFormat], style: Style) -> str:
    """All formats as one text."""
    return "\n".join(_lines(known, style)) + "\n"


def _lines(known: Sequence[KnownFormat], style: Style) -> Iterator[str]:
    painter = Painter(colour=style.colour)
    short = grid(known)
    yield from grid_lines(short, style.width, painter)
    yield ""
    yield painter.paint("told by", HEADER)
    names = (row.cells[0] for row in short.rows)
    yield from labelled(zip(names, map(told_by, known), strict=True), style, painter)
