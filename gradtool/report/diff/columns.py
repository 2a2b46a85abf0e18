"""Differences in flat rows: the columns of CSV."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from gradtool.core.figures import dimensions, index_text

if TYPE_CHECKING:
    from gradtool.core.comparing.difference import Difference, TensorDifference

_SIDE: Final = ("dtype", "shape", "norm", "max_abs", "nan", "posinf", "neginf")

COLUMNS: Final = (
    *("name", "name_in_b", "section", "numel", "identical", "same", "problem", "differing"),
    *("first_differing", "rel_l2", "cosine", "norm_ratio", "best_scale", "rel_l2_scaled"),
    *("max_abs_diff", "max_abs_diff_at", "opposite_signs", "max_ulps", "equal_when_rounded"),
    *(f"a_{name}" for name in _SIDE),
    *(f"b_{name}" for name in _SIDE),
)


def rows(difference: Difference) -> Iterator[dict[str, Any]]:
    """A row for each pair; tensors without one have the name on their side alone.

    None stands for what there is not.
    """
    yield from map(_row, difference.tensors)
    nothing = dict.fromkeys(COLUMNS)
    alone: dict[str, Any] = {"identical": False, "same": False}
    for name in difference.only_in_a:
        yield {**nothing, **alone, "name": name, "problem": "only in A"}
    for name in difference.only_in_b:
        yield {**nothing, **alone, "name_in_b": name, "problem": "only in B"}


def _row(tensor: TensorDifference) -> dict[str, Any]:
    first, largest = tensor.first_differing, tensor.max_abs_diff_at
    values = (
        *(tensor.name, tensor.b.name, tensor.a.section, tensor.a.numel),
        *(tensor.identical, tensor.same, tensor.problem, tensor.differing),
        None if first is None else index_text(first),
        *(tensor.rel_l2, tensor.cosine, tensor.norm_ratio),
        *(tensor.best_scale, tensor.rel_l2_scaled, tensor.max_abs_diff),
        None if largest is None else index_text(largest),
        *(tensor.opposite_signs, tensor.max_ulps, tensor.equal_when_rounded),
        *_sides(tensor),
    )
    return dict(zip(COLUMNS, values, strict=True))


def _sides(tensor: TensorDifference) -> Iterator[object]:
    for spec, stats in zip((tensor.a, tensor.b), tensor.stats or (None, None), strict=True):
        yield spec.dtype.name
        yield dimensions(spec.shape)
        if stats is None:
            yield from [None] * 5
        else:
            yield from (stats.norm, stats.max_abs, stats.nan, stats.posinf, stats.neginf)
