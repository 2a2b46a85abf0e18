"""Differences for pull requests and job summaries: GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradtool.core.comparing.roll_up import by_section
from gradtool.core.comparing.words import sentence
from gradtool.core.figures import counted
from gradtool.report.diff.grids import pair_grid, shown, summary_grid
from gradtool.report.diff.words import first_sentence, origin, remarks, rolled_up, total
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
        yield from table(pair_grid(rows))
    apart = sum(not tensor.same for tensor in difference.tensors)
    if not style.quiet and apart > len(rows):
        yield ""
        left_out = apart - len(rows)
        yield f"{counted(left_out, 'more tensor')} {'is' if left_out == 1 else 'are'} not listed."
    if not style.quiet:
        yield from _together(difference, style)


def _together(difference: Difference, style: Style) -> Iterator[str]:
    """Which layers differ and how much; of each section, or of all, the figures together."""
    sections = by_section(difference.tensors)
    if len(sections) > 1 and any(section.apart for section in sections):
        yield ""
        yield from table(summary_grid("section", sections))
    lines = [f"differing: {text}" for text in rolled_up(difference, show_all=style.show_all)]
    if (of_all := total(sections)) is not None:
        lines.append(f"total: {of_all}")
    if lines:
        yield ""
        yield from map(listed, lines)
