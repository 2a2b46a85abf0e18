"""Differences as RFC 4180 CSV, a row for each pair; see `report.inspect.csv` on texts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from gradtool.core.figures import dimensions, index_text, number
from gradtool.report.inspect.csv import literal
from gradtool.report.model import Style

if TYPE_CHECKING:
    from gradtool.core.comparing.difference import Difference, TensorDifference

_SIDE: Final = ("dtype", "shape", "norm", "max_abs", "nan", "posinf", "neginf")

HEADER: Final = (
    "name",
    "name_in_b",
    "section",
    "numel",
    "identical",
    "same",
    "problem",
    "differing",
    "first_differing",
    "rel_l2",
    "cosine",
    "norm_ratio",
    "best_scale",
    "rel_l2_scaled",
    "max_abs_diff",
    "max_abs_diff_at",
    "opposite_signs",
    "max_ulps",
    "equal_when_rounded",
    *(f"a_{name}" for name in _SIDE),
    *(f"b_{name}" for name in _SIDE),
)


def render(difference: Difference, style: Style) -> str:  # noqa: ARG001
    """All pairs under one header; those without one have the name on their side alone."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(HEADER)
    writer.writerows(map(_row, difference.tensors))
    empty = [""] * (len(HEADER) - 7)
    for name in difference.only_in_a:
        writer.writerow([literal(name), "", "", "", "false", "false", "only in A", *empty])
    for name in difference.only_in_b:
        writer.writerow(["", literal(name), "", "", "false", "false", "only in B", *empty])
    return out.getvalue()


def _row(tensor: TensorDifference) -> Iterator[object]:
    first, largest = tensor.first_differing, tensor.max_abs_diff_at
    yield literal(tensor.name)
    yield literal(tensor.b.name)
    yield literal(tensor.a.section)
    yield tensor.a.numel
    yield _truth(tensor.identical)
    yield _truth(tensor.same)
    yield tensor.problem or ""
    yield _count(tensor.differing)
    yield "" if first is None else index_text(first)
    yield _number(tensor.rel_l2)
    yield _number(tensor.cosine)
    yield _number(tensor.norm_ratio)
    yield _number(tensor.best_scale)
    yield _number(tensor.rel_l2_scaled)
    yield _number(tensor.max_abs_diff)
    yield "" if largest is None else index_text(largest)
    yield _count(tensor.opposite_signs)
    yield _count(tensor.max_ulps)
    yield _truth(tensor.equal_when_rounded)
    for spec, stats in zip((tensor.a, tensor.b), tensor.stats or (None, None), strict=True):
        yield spec.dtype.name
        yield dimensions(spec.shape)
        if stats is None:
            yield from [""] * 5
        else:
            yield from (number(stats.norm), number(stats.max_abs))
            yield from (stats.nan, stats.posinf, stats.neginf)


def _truth(value: bool | None) -> str:
    return "" if value is None else str(value).lower()


def _count(value: int | None) -> int | str:
    return "" if value is None else value


def _number(value: float | None) -> str:
    return "" if value is None else number(value)
