"""Lists of checkpoints for people at a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradtool.errors import SeveralCheckpointsError
from gradtool.report.escaping import brief
from gradtool.report.layout import HEADER, MOODS, Painter, grid_lines, paragraph
from gradtool.report.listing.words import command_for_one, grid, holds, left_out
from gradtool.report.model import Picking, Style


def render(lists: Sequence[SeveralCheckpointsError], style: Style, picking: Picking) -> str:
    """The lists one after the other, separated by empty lines."""
    painter = Painter(colour=style.colour)
    texts = ("\n".join(_lines(several, style, picking, painter)) + "\n" for several in lists)
    return "\n".join(texts)


def _lines(
    several: SeveralCheckpointsError, style: Style, picking: Picking, painter: Painter
) -> Iterator[str]:
    path = brief(several.path)
    first, *following = paragraph(f"{path}: {holds(several)}", style.width, "  ")
    yield first.replace(path, painter.paint(path, HEADER), 1)
    yield from following
    yield ""
    yield from grid_lines(grid(several, style), style.width, painter)
    if more := left_out(several, style):
        yield painter.paint(f"… {more} (--all shows them)", MOODS["minor"])
    if command := command_for_one(several, picking):
        yield ""
        yield f"to {picking.verb} one: {command}"
