"""Differences for pull requests and job summaries: GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradtool.core.figures import counted
from gradtool.report.diff.words import first_sentence, grid, origin, remarks, sentence, shown
from gradtool.report.inspect.markdown import escaped, listed, table
from gradtool.report.model import Style

if TYPE_CHECKING:
    from gradtool.core.comparing.difference import Difference


def render(difference: Difference, style: Style) -> str:
    """A heading, a list and a table."""
    return "\n".join(_lines(difference, style)) + "\n"


def _lines(difference: Difference, style: Style) -> Iterator[str]:
    yield f"### {escaped(sentence(difference))}"
    yield ""
    for label, value in (("A", origin(difference.a)), ("B", origin(difference.b))):
        yield f"- **{label}**: {escaped(value)}"
    first = first_sentence(difference)
    if first is not None:
        yield f"- **first**: {escaped(first)}"
    yield from (
        listed(f"{label}: {value}") for label, value in remarks(difference, with_reading=True)
    )
    rows = () if style.quiet else shown(difference, show_all=style.show_all)
    if rows:
        yield ""
        yield from table(grid(rows))
    apart = sum(not tensor.same for tensor in difference.tensors)
    if not style.quiet and apart > len(rows):
        yield ""
        left_out = apart - len(rows)
        yield f"{counted(left_out, 'more tensor')} {'is' if left_out == 1 else 'are'} not listed."
