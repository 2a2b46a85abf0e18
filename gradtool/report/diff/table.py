"""Differences for people at a terminal: a sentence, the first tensor that differs, the worst."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from gradtool.core.figures import counted
from gradtool.report.diff.words import first_sentence, grid, origin, remarks, sentence, shown
from gradtool.report.escaping import brief
from gradtool.report.inspect.table import labelled
from gradtool.report.layout import (
    HEADER,
    MOODS,
    NARROWEST_NAME,
    Painter,
    grid_lines,
    paragraph,
    shortened_name,
)
from gradtool.report.model import Style

if TYPE_CHECKING:
    from gradtool.core.comparing.difference import Difference


def render(difference: Difference, style: Style) -> str:
    """The difference as one text; of identical dumps one line."""
    return "\n".join(_lines(difference, style)) + "\n"


def _lines(difference: Difference, style: Style) -> Iterator[str]:
    painter = Painter(colour=style.colour)
    said = MOODS["plain" if difference.same else "alarming"]
    yield from (
        painter.paint(line, said) for line in paragraph(sentence(difference), style.width, "  ")
    )
    if not style.quiet and not (difference.identical and difference.same and not style.show_all):
        sides = (("A", origin(difference.a)), ("B", origin(difference.b)))
        yield from labelled(sides, style, painter)
    first = first_sentence(difference, partial(_fitted, width=style.width))
    if first is not None:
        yield from labelled([("first", first)], style, painter)
    is_one_line = difference.same and (style.quiet or difference.identical) and not style.show_all
    notes = remarks(difference, with_reading=not is_one_line)
    yield from labelled(notes, style, painter)
    if style.quiet:
        return
    rows = shown(difference, show_all=style.show_all)
    if rows:
        yield ""
        yield from grid_lines(grid(rows), style.width, painter)
    apart = sum(not tensor.same for tensor in difference.tensors)
    if not style.show_all and apart > len(rows):
        left_out = counted(apart - len(rows), "more tensor")
        yield painter.paint(f"… {left_out} (--all shows them)", HEADER)


def _fitted(name: str, width: int | None) -> str:
    """A name as it is shown in a line with others."""
    text = brief(name)
    return text if width is None else shortened_name(text, max(width // 2, NARROWEST_NAME))
