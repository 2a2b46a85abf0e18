"""Differences for people at a terminal: a sentence, the first tensor that differs, the worst."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from gradtool.core.comparing.roll_up import by_layer, by_section
from gradtool.core.comparing.words import sentence
from gradtool.core.figures import counted
from gradtool.report.diff.grids import pair_grid, shown, summary_grid
from gradtool.report.diff.words import FEW, first_sentence, origin, remarks, rolled_up, total
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
    if not style.quiet:
        yield from _pairs(difference, style, painter)
        yield from _together(difference, style, painter)


def _pairs(difference: Difference, style: Style, painter: Painter) -> Iterator[str]:
    """Tensor by tensor: the worst, or all."""
    rows = shown(difference, show_all=style.show_all)
    if rows:
        yield ""
        yield from grid_lines(pair_grid(rows), style.width, painter)
    apart = sum(not tensor.same for tensor in difference.tensors)
    if not style.show_all and apart > len(rows):
        left_out = counted(apart - len(rows), "more tensor")
        yield painter.paint(f"… {left_out} (--all shows them)", HEADER)


def _together(difference: Difference, style: Style, painter: Painter) -> Iterator[str]:
    """Which layers differ and how much; of each section, or of all, the figures together."""
    sections = by_section(difference.tensors)
    if not any(section.apart for section in sections):
        return
    apart = sum(section.apart for section in sections)
    if style.show_all and apart > FEW:
        yield ""
        layers = by_layer(difference.tensors)
        yield from grid_lines(summary_grid("layer", layers), style.width, painter)
    if len(sections) > 1:
        yield ""
        yield from grid_lines(summary_grid("section", sections), style.width, painter)
    lines = [("differing", text) for text in rolled_up(difference, show_all=style.show_all)]
    if (of_all := total(sections)) is not None:
        lines.append(("total", of_all))
    if lines:
        yield ""
        yield from labelled(lines, style, painter)


def _fitted(name: str, width: int | None) -> str:
    """A name as it is shown in a line with others."""
    text = brief(name)
    return text if width is None else shortened_name(text, max(width // 2, NARROWEST_NAME))
