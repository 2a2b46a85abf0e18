"""Figures of several pairs taken together: of a section, of a layer, of tensors that are alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from gradtool.core.comparing.difference import TensorDifference
from gradtool.core.comparing.distance import Distance, Products
from gradtool.core.comparing.sums import ScaledSum, cosine, root_ratio, total
from gradtool.core.order.layers import split_name
from gradtool.core.order.patterns import Pattern, patterns
from gradtool.core.stats import TensorStats, merge
from gradtool.core.tensors import TensorSpec


@dataclass(frozen=True)
class PairSummary:
    """Several pairs as if they were one tensor; what tied tensors share counts once.

    Figures are made when they are asked for.

    Attributes:
        name: of the section or the layer.
        pairs: the pairs, in the order of the first dump.
    """

    name: str
    pairs: tuple[TensorDifference, ...]

    @cached_property
    def _counted(self) -> list[tuple[TensorDifference, Distance]]:
        """Those that were compared, each stored element once, and how far apart they are."""
        seen = _Seen()
        compared = ((pair, pair.distance) for pair in self.pairs if pair.distance is not None)
        return [(pair, found) for pair, found in compared if seen.is_new(pair)]

    @property
    def compared(self) -> int:
        """How many of the pairs have figures."""
        return sum(pair.distance is not None for pair in self.pairs)

    @cached_property
    def sides(self) -> tuple[TensorStats, TensorStats]:
        """Statistics of the elements of either side that were compared."""
        found = [pair.stats for pair, _ in self._counted if pair.stats is not None]
        return merge([a for a, _ in found], 2.0), merge([b for _, b in found], 2.0)

    def _sum(self, of: Callable[[Products], ScaledSum]) -> ScaledSum:
        """A sum of products over the elements that are finite on both sides."""
        return total(of(found.products) for _, found in self._counted)

    @cached_property
    def _aa(self) -> ScaledSum:
        return self._sum(lambda sums: sums.aa)

    @cached_property
    def _bb(self) -> ScaledSum:
        return self._sum(lambda sums: sums.bb)

    @property
    def max_abs_diff(self) -> float | None:
        """The largest `|b - a|` of finite elements; None where none were compared."""
        return max((pair.max_abs_diff or 0.0 for pair, _ in self._counted), default=None)

    @property
    def apart(self) -> int:
        """How many pairs are not the same."""
        return sum(not pair.same for pair in self.pairs)

    @property
    def rel_l2(self) -> float | None:
        """`|b - a| / |a|`; None where |a| is 0."""
        return root_ratio(self._sum(lambda sums: sums.dd), self._aa)

    @property
    def cosine(self) -> float | None:
        """Of the angle between both; None where one of them is 0."""
        return cosine(self._sum(lambda sums: sums.ab), self._aa, self._bb)

    @property
    def norm_ratio(self) -> float | None:
        """`|b| / |a|`; None where |a| is 0."""
        return root_ratio(self._bb, self._aa)

    @property
    def worst_layer(self) -> PairSummary | None:
        """The layer with the largest `rel_l2` of several; None of one."""
        found = [(one.rel_l2, one) for one in by_layer(self.pairs)]
        if len(found) < 2:
            return None
        return max(found, key=lambda one: math.inf if one[0] is None else one[0])[1]


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
        (pattern, PairSummary(pattern.text, tuple(apart[name] for name in pattern.names)))
        for pattern in patterns(apart, (pair.name for pair in pairs))
    ]


def _grouped(
    pairs: Iterable[TensorDifference], group: Callable[[TensorDifference], str]
) -> list[PairSummary]:
    members: dict[str, list[TensorDifference]] = {}
    for pair in pairs:
        members.setdefault(group(pair), []).append(pair)
    return [PairSummary(name, tuple(found)) for name, found in members.items()]


class _Seen:
    """The stored elements of pairs, as far as they have to be told apart."""

    def __init__(self) -> None:
        self._first_at: dict[tuple[int, int], TensorDifference] = {}
        self._elements: set[object] = set()

    def is_new(self, pair: TensorDifference) -> bool:
        """Whether no pair before it is of the very same elements."""
        if not (pair.a.extents and pair.b.extents):
            return True
        # Few have the first byte of another: what takes long to hash need seldom be.
        first = self._first_at.setdefault(
            (pair.a.extents[0].offset, pair.b.extents[0].offset), pair
        )
        if first is pair:
            return True
        self._elements.add((_elements(first.a), _elements(first.b)))
        found = _elements(pair.a), _elements(pair.b)
        is_new = found not in self._elements
        self._elements.add(found)
        return is_new


def _elements(spec: TensorSpec) -> object:
    return spec.extents, spec.dtype.name, spec.shape, spec.strides, spec.is_negated, spec.scale
