"""Lists of checkpoints for people at a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradtool.errors import SeveralCheckpointsError
from gradtool.report.layout import HEADER, MOODS, Painter, grid_lines
from gradtool.report.listing.words import grid, heading, left_out, picking
from gradtool.report.model import Style


def render(lists: Sequence[SeveralCheckpointsError], style: Style) -> str:
    """The lists one after the other, separated by empty lines."""
    painter = Painter(colour=style.colour)
    texts = ("\n".join(_lines(several, style, painter)) + "\n" for several in lists)
    return "\n".join(texts)


def _lines(several: SeveralCheckpointsError, style: Style, painter: Painter) -> Iterator[str]:
    yield painter.paint(heading(several), HEADER)
    yield ""
    yield from grid_lines(grid(several, show_all=style.show_all), style.width, painter)
    if more := left_out(several, show_all=style.show_all):
        yield painter.paint(f"… {more:,} more (--all shows them)", MOODS["minor"])
    yield ""
    yield f"to read one: {picking(several)}"
