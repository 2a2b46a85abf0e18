"""Lists of checkpoints for pull requests and job summaries: GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradtool.errors import SeveralCheckpointsError
from gradtool.report.inspect.markdown import code, escaped, table
from gradtool.report.listing.words import grid, heading, left_out, picking
from gradtool.report.model import Style


def render(lists: Sequence[SeveralCheckpointsError], style: Style) -> str:
    """A heading and a table for each list."""
    return "\n".join("\n".join(_lines(several, style)) + "\n" for several in lists)


def _lines(several: SeveralCheckpointsError, style: Style) -> Iterator[str]:
    yield f"### {escaped(heading(several))}"
    yield ""
    yield from table(grid(several, show_all=style.show_all))
    yield ""
    if more := left_out(several, show_all=style.show_all):
        yield f"{more:,} more are not listed."
        yield ""
    yield f"To read one: {code(picking(several))}"
