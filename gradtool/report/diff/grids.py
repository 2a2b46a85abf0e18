"""Tables of pairs: one by one, and together by section and by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from gradtool.core.figures import dimensions, share, significant, tally
from gradtool.report.escaping import brief
from gradtool.report.grid import CELL_DIGITS, Grid, Mood, Row

if TYPE_CHECKING:
    from gradtool.core.comparing.difference import Difference, TensorDifference
    from gradtool.core.comparing.roll_up import PairSummary

WORST: Final = 10
"""Tensors that people are shown without --all."""

NONE: Final = "-"

LARGE: Final = 0.1
"""A relative distance from which on two tensors are hardly the same gradient."""

NOTABLE: Final = 1e-3
"""One that no float32 rounds to."""


def shown(difference: Difference, *, show_all: bool) -> list[TensorDifference]:
    """The pairs to list: all, or those that differ, the worst of them first, and not too many."""
    if show_all:
        return list(difference.tensors)
    return worst_first(difference)[:WORST]


def worst_first(difference: Difference) -> list[TensorDifference]:
    """The pairs that are not the same, of two that differ as much the first in order before."""
    return sorted((tensor for tensor in difference.tensors if not tensor.same), key=badness)


def badness(tensor: TensorDifference) -> tuple[int, float]:
    """A sort key: what cannot be compared first, then NaN on one side only, then by distance."""
    if tensor.distance is None:
        return 0, 0.0
    a, b = tensor.distance.a, tensor.distance.b
    if a.nonfinite != b.nonfinite:
        return 1, -float(abs(a.nonfinite - b.nonfinite))
    relative = tensor.rel_l2
    return 2, -math.inf if relative is None and tensor.distance.largest else -(relative or 0.0)


def pair_grid(tensors: Sequence[TensorDifference]) -> Grid:
    """A row for each pair."""
    return Grid(
        ("name", "shape", "differ", "rel L2", "cosine", "best scale", "max |b-a|"),
        (False, False, True, True, True, True, True),
        tuple(Row(_cells(tensor), _mood(tensor)) for tensor in tensors),
    )


def _cells(tensor: TensorDifference) -> tuple[str, ...]:
    name, shape = brief(tensor.name), brief(dimensions(tensor.a.shape))
    if tensor.distance is None:
        word = "dtype" if tensor.a.shape == tensor.b.shape else "shape"
        return (name, shape, word, *[NONE] * 4)
    figures = [tensor.rel_l2, tensor.cosine, tensor.best_scale, tensor.max_abs_diff]
    if not tensor.distance.products.aa.value and tensor.max_abs_diff_at is None:
        figures[-1] = None  # no two finite numbers but zeros are in it
    return (
        name,
        shape,
        share(tensor.differing or 0, tensor.a.numel),
        *(NONE if value is None else significant(value, CELL_DIGITS) for value in figures),
    )


def _mood(tensor: TensorDifference) -> Mood:
    if tensor.same:
        return "minor"
    found = tensor.distance
    if found is None or found.a.nonfinite != found.b.nonfinite:
        return "alarming"
    return size_mood(tensor.rel_l2)


def summary_grid(header: str, summaries: Sequence[PairSummary]) -> Grid:
    """A row for each of several groups of pairs, which `header` says what they are."""
    return Grid(
        (header, "tensors", "differ", "rel L2", "cosine", "norm of A", "of B", "max |b-a|"),
        (False, *[True] * 7),
        tuple(Row(_summary_cells(one), _summary_mood(one)) for one in summaries),
    )


def _summary_cells(summary: PairSummary) -> tuple[str, ...]:
    a, b = summary.sides
    figures = (summary.rel_l2, summary.cosine, a.norm, b.norm, summary.max_abs_diff)
    return (
        brief(summary.name) or "(none)",
        f"{len(summary.pairs):,}",
        tally(summary.apart),
        *(NONE if value is None else significant(value, CELL_DIGITS) for value in figures),
    )


def _summary_mood(summary: PairSummary) -> Mood:
    if not summary.apart:
        return "minor"
    a, b = summary.sides
    if summary.compared < len(summary.pairs) or a.nonfinite != b.nonfinite:
        return "alarming"
    return size_mood(summary.rel_l2)


def size_mood(relative: float | None) -> Mood:
    """How much attention a relative distance deserves; None is one from 0."""
    if relative is None or relative >= LARGE:
        return "alarming"
    return "notable" if relative >= NOTABLE else "plain"
