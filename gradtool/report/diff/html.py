"""Differences as a page: which layers differ and how much, and tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from gradtool.core.comparing.roll_up import PairSummary, by_layer, by_section
from gradtool.core.comparing.words import sentence
from gradtool.core.figures import counted
from gradtool.report import page
from gradtool.report.diff.grids import pair_grid, summary_grid, worst_first
from gradtool.report.diff.words import FEW, first_sentence, origin, remarks, rolled_up, total
from gradtool.report.model import Style

if TYPE_CHECKING:
    from gradtool.core.comparing.difference import Difference

_DECADES: Final = 8.0
"""Decades below 1 that a bar shows: float32 rounds by less than the last of them."""


def render(difference: Difference, style: Style) -> str:
    """The page; `show_all` lists what is the same too."""
    return page.page(sentence(difference), _parts(difference, style))


def _parts(difference: Difference, style: Style) -> Iterator[str]:
    sections = by_section(difference.tensors)
    yield page.labelled(_said(difference, sections, style))
    if style.quiet:
        return
    if sum(section.apart for section in sections) > FEW:
        yield from _layers(difference)
    if len(sections) > 1:
        yield page.table("Sections", summary_grid("section", sections[: page.MOST_ROWS]))
    yield from _tensors(difference, style)


def _said(
    difference: Difference, sections: Sequence[PairSummary], style: Style
) -> Iterator[tuple[str, str]]:
    yield "A", origin(difference.a)
    yield "B", origin(difference.b)
    first = first_sentence(difference)
    if first is not None:
        yield "first", first
    yield from remarks(difference, with_reading=True)
    yield from (("differing", text) for text in rolled_up(difference, show_all=style.show_all))
    if (of_all := total(sections)) is not None:
        yield "total", of_all


def _layers(difference: Difference) -> Iterator[str]:
    layers = by_layer(difference.tensors)
    heading = "Which layers differ, and how much: bars are decades of rel L2, from 1e-8 to 1"
    shown = layers[: page.MOST_ROWS]
    bars = (_length(layer.rel_l2) if layer.apart else 0.0 for layer in shown)
    yield page.table(heading, summary_grid("layer", shown), bars)
    yield from _left_out(len(layers) - page.MOST_ROWS, "more layer")


def _tensors(difference: Difference, style: Style) -> Iterator[str]:
    listed = list(difference.tensors) if style.show_all else worst_first(difference)
    if not listed:
        return
    heading = "Tensors" if style.show_all else "Tensors that differ, the worst first"
    yield page.table(heading, pair_grid(listed[: page.MOST_ROWS]))
    yield from _left_out(len(listed) - page.MOST_ROWS, "more tensor")


def _left_out(count: int, what: str) -> Iterator[str]:
    if count > 0:
        is_are = "is" if count == 1 else "are"
        listed = "gradtool diff A B -f csv lists every tensor"
        yield page.paragraph(f"{counted(count, what)} {is_are} not listed here: {listed}.")


def _length(relative: float | None) -> float:
    """A bar for a relative distance, which spans decades; one from 0 is as long as any."""
    if relative is None or relative >= 1.0:
        return 1.0
    return max(0.0, 1.0 + math.log10(relative) / _DECADES) if relative else 0.0
