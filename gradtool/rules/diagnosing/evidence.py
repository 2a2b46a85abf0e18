"""The interface of rules that say why two dumps differ: what they are given and give back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

from gradtool.core.comparing.difference import TensorDifference
from gradtool.core.comparing.distance import Distance
from gradtool.core.comparing.second_look import SecondLook
from gradtool.core.dtypes import DTYPES, DType
from gradtool.core.judging.quotient import Known
from gradtool.core.judging.rule import Explained

NEGLIGIBLE = 5e-5
"""Norms below this share of the total norm are 0 but for rounding, as those of a key's bias, which
is 1.5e-5 of it in bf16: they are another number whenever anything is, and prove nothing.
"""


@dataclass(frozen=True)
class Compared:
    """A pair of tensors whose elements were compared; each figure is computed once."""

    pair: TensorDifference
    distance: Distance

    @property
    def name(self) -> str:
        """The tensor's name in the first dump."""
        return self.pair.name

    @cached_property
    def rel_l2(self) -> float | None:
        """`|b - a| / |a|`."""
        return self.distance.rel_l2

    @cached_property
    def cosine(self) -> float | None:
        """Of the angle between both."""
        return self.distance.cosine

    @cached_property
    def scaled(self) -> tuple[float, float] | None:
        """The best scale, and what it leaves relatively; None where they are not."""
        scale, left = self.distance.best_scale, self.distance.rel_l2_scaled
        return None if scale is None or left is None else (scale, left)

    @property
    def dtypes(self) -> tuple[DType, DType]:
        """The real types of both sides: of complex ones those of the parts."""
        one, other = (
            DTYPES[spec.dtype.component] if spec.dtype.component else spec.dtype
            for spec in (self.pair.a, self.pair.b)
        )
        return one, other

    @property
    def unit(self) -> float:
        """How far, relatively, rounding to the narrower of both types moves a number at most."""
        digits = [dtype.precision or _FP8_PRECISION[dtype.name[3:7]] for dtype in self.dtypes]
        return 2.0 ** -min(digits)

    @property
    def numbers(self) -> int:
        """How many numbers of the first side are finite and not 0."""
        stats = self.distance.a
        return stats.numel - stats.zeros - stats.nonfinite


_FP8_PRECISION = {"E5M2": 3, "E4M3": 4}


@dataclass(frozen=True)
class Evidence:
    """Two dumps that were compared, as rules see them.

    Attributes:
        pairs: all pairs, in the order of the first dump.
        open: those that differ, and of which no rule has said why.
        compared: those of the open ones whose elements were compared.
        look: reads tensors once more.
        known: what is known of the dumps besides.
        in_model_order: whether the order is the model's.
    """

    pairs: tuple[TensorDifference, ...]
    open: tuple[TensorDifference, ...]
    compared: tuple[Compared, ...]
    look: SecondLook
    known: Known
    in_model_order: bool = False

    @cached_property
    def differing(self) -> tuple[TensorDifference, ...]:
        """All that differ."""
        return tuple(pair for pair in self.pairs if not pair.same)

    @cached_property
    def negligible(self) -> frozenset[int]:
        """The ids of the pairs that are next to 0 on both sides, beside all of them."""
        found = [pair for pair in self.pairs if pair.distance is not None]
        norms = [[side.finite_norm for side in pair.stats or ()] for pair in found]
        totals = [math.hypot(*side) for side in zip(*norms, strict=True)]
        return frozenset(
            id(pair)
            for pair, sides in zip(found, norms, strict=True)
            if all(n <= NEGLIGIBLE * total for n, total in zip(sides, totals, strict=True))
        )


def is_dead(pair: TensorDifference) -> bool:
    """Whether no element of both sides is finite and not 0."""
    found = pair.distance
    return found is not None and not found.a.max_abs and not found.b.max_abs


def compared(pairs: Sequence[TensorDifference]) -> tuple[Compared, ...]:
    """Those of pairs whose elements were compared."""
    return tuple(Compared(pair, pair.distance) for pair in pairs if pair.distance is not None)


class Told(NamedTuple):
    """One sentence, and the tensors that it explains."""

    text: str
    tensors: Sequence[TensorDifference] = ()


Find: TypeAlias = Callable[[Evidence], Iterator[Told]]


@dataclass(frozen=True, kw_only=True)
class Diagnosis(Explained):
    """One reason for which two dumps may differ; `find` is silent where it is not sure."""

    find: Find
