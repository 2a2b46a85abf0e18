"""The formats as GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradtool.report.formats.words import grid, told_by
from gradtool.report.grid import Grid, Row
from gradtool.report.inspect.markdown import table
from gradtool.report.model import Style

if TYPE_CHECKING:
    from gradtool.formats.known import KnownFormat


def render(known: Sequence[KnownFormat], style: Style) -> str:  # noqa: ARG001
    """All formats in one table."""
    short = grid(known)
    rows = zip(short.rows, known, strict=True)
    whole = Grid(
        (*short.headers, "told by"),
        (*short.numeric, False),
        tuple(Row((*row.cells, told_by(one)), row.mood) for row, one in rows),
    )
    return "\n".join(table(whole)) + "\n"
