"""Lists of checkpoints for pull requests and job summaries: GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradtool.errors import SeveralCheckpointsError
from gradtool.report.escaping import brief
from gradtool.report.inspect.markdown import code, escaped, table
from gradtool.report.listing.words import command_for_one, grid, holds, left_out
from gradtool.report.model import Picking, Style


def render(lists: Sequence[SeveralCheckpointsError], style: Style, picking: Picking) -> str:
    """A heading and a table for each list."""
    return "\n".join("\n".join(_lines(several, style, picking)) + "\n" for several in lists)


def _lines(several: SeveralCheckpointsError, style: Style, picking: Picking) -> Iterator[str]:
    yield f"### {code(brief(several.path))}"
    yield ""
    yield escaped(holds(several))
    yield ""
    yield from table(grid(several, style))
    yield ""
    if more := left_out(several, style):
        yield f"{more} not listed."
        yield ""
    if command := command_for_one(several, picking):
        yield f"To {picking.verb} one: {code(command)}"
