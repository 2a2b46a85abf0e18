"""Figures of several pairs taken together: of a section, of a layer, of tensors that are alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gradtool.core.comparing.difference import TensorDifference
from gradtool.core.comparing.distance import Products
from gradtool.core.comparing.sums import cosine, root_ratio, total
from gradtool.core.order.layers import split_name
from gradtool.core.order.patterns import Pattern, patterns
from gradtool.core.stats import TensorStats, merge
from gradtool.core.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class PairSummary:
    """Several pairs as if they were one tensor; what tied tensors share counts once.

    Attributes:
        name: of the section or the layer.
        pairs: the pairs, in the order of the first dump.
        compared: how many of them have figures.
        a, b: statistics of the elements of either side that were compared.
        products: sums over those that are finite on both.
        max_abs_diff: the largest `|b - a|` of finite elements; None where none were compared.
    """

    name: str
    pairs: tuple[TensorDifference, ...]
    compared: int
    a: TensorStats
    b: TensorStats
    products: Products
    max_abs_diff: float | None

    @classmethod
    def of(cls, name: str, pairs: Sequence[TensorDifference]) -> PairSummary:
        """The figures of `pairs` together."""
        seen: set[object] = set()
        counted = [pair for pair in pairs if pair.stats is not None and _is_new(pair, seen)]
        sums = [pair.distance.products for pair in counted if pair.distance is not None]
        sides = [pair.stats for pair in counted if pair.stats is not None]
        return cls(
            name=name,
            pairs=tuple(pairs),
            compared=sum(pair.distance is not None for pair in pairs),
            a=merge([a for a, _ in sides], 2.0),
            b=merge([b for _, b in sides], 2.0),
            products=Products(
                aa=total(one.aa for one in sums),
                bb=total(one.bb for one in sums),
                ab=total(one.ab for one in sums),
                dd=total(one.dd for one in sums),
            ),
            max_abs_diff=max((pair.max_abs_diff or 0.0 for pair in counted), default=None),
        )

    @property
    def apart(self) -> int:
        """How many pairs are not the same."""
        return sum(not pair.same for pair in self.pairs)

    @property
    def rel_l2(self) -> float | None:
        """`|b - a| / |a|`; None where |a| is 0."""
        return root_ratio(self.products.dd, self.products.aa)

    @property
    def cosine(self) -> float | None:
        """Of the angle between both; None where one of them is 0."""
        return cosine(self.products.ab, self.products.aa, self.products.bb)

    @property
    def norm_ratio(self) -> float | None:
        """`|b| / |a|`; None where |a| is 0."""
        return root_ratio(self.products.bb, self.products.aa)

    @property
    def worst_layer(self) -> PairSummary | None:
        """The layer with the largest `rel_l2` of several; None of one."""
        layers = by_layer(self.pairs)
        if len(layers) < 2:
            return None
        return max(layers, key=lambda one: math.inf if one.rel_l2 is None else one.rel_l2)


def by_section(pairs: Iterable[TensorDifference]) -> list[PairSummary]:
    """The figures of each section of the first dump, in the order of their first tensors."""
    return _grouped(pairs, lambda pair: pair.a.section)


def by_layer(pairs: Iterable[TensorDifference]) -> list[PairSummary]:
    """Those of each layer, and of each tensor that is in none."""
    return _grouped(pairs, lambda pair: split_name(pair.name).layer)


def alike(pairs: Sequence[TensorDifference]) -> list[tuple[Pattern, PairSummary]]:
    """What is not the same, as few patterns of names, and the figures of each of them."""
    apart = {pair.name: pair for pair in pairs if not pair.same}
    return [
        (pattern, PairSummary.of(pattern.text, [apart[name] for name in pattern.names]))
        for pattern in patterns(apart, (pair.name for pair in pairs))
    ]


def _grouped(
    pairs: Iterable[TensorDifference], group: Callable[[TensorDifference], str]
) -> list[PairSummary]:
    members: dict[str, list[TensorDifference]] = {}
    for pair in pairs:
        members.setdefault(group(pair), []).append(pair)
    return [PairSummary.of(name, found) for name, found in members.items()]


def _is_new(pair: TensorDifference, seen: set[object]) -> bool:
    """Whether no pair before it is of the very same stored elements."""
    if not (pair.a.extents and pair.b.extents):
        return True
    elements = _elements(pair.a), _elements(pair.b)
    is_new = elements not in seen
    seen.add(elements)
    return is_new


def _elements(spec: TensorSpec) -> object:
    return spec.extents, spec.dtype.name, spec.shape, spec.strides, spec.is_negated, spec.scale
