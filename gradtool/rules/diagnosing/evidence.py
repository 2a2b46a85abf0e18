"""The interface of rules that say why two dumps differ: what they are given, what they give back."""

from __future__ import annotations

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

LEAST_NUMBERS = 4
"""Numbers that are not 0 in a tensor of which figures prove something: two have any cosine."""


class Compared(NamedTuple):
    """A pair of tensors whose elements were compared."""

    pair: TensorDifference
    distance: Distance

    @property
    def name(self) -> str:
        """The tensor's name in the first dump."""
        return self.pair.name

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
    def is_telling(self) -> bool:
        """Whether the first side has numbers enough for figures to prove something."""
        stats = self.distance.a
        return stats.numel - stats.zeros - stats.nonfinite >= LEAST_NUMBERS


_FP8_PRECISION = {"E5M2": 3, "E4M3": 4}


@dataclass(frozen=True)
class Evidence:
    """Two dumps that were compared, as rules see them.

    Attributes:
        pairs: all pairs, in the order of the first dump.
        open: those that differ, and of which no rule has said why.
        look: reads tensors once more.
        known: what is known of the dumps besides.
    """

    pairs: tuple[TensorDifference, ...]
    open: tuple[TensorDifference, ...]
    look: SecondLook
    known: Known

    @cached_property
    def differing(self) -> tuple[TensorDifference, ...]:
        """All that differ."""
        return tuple(pair for pair in self.pairs if not pair.same)

    @cached_property
    def compared(self) -> tuple[Compared, ...]:
        """Those of the open ones whose elements were compared."""
        return tuple(
            Compared(pair, pair.distance) for pair in self.open if pair.distance is not None
        )


class Told(NamedTuple):
    """One sentence, and the tensors that it explains."""

    text: str
    tensors: Sequence[TensorDifference] = ()


Find: TypeAlias = Callable[[Evidence], Iterator[Told]]


@dataclass(frozen=True, kw_only=True)
class Diagnosis(Explained):
    """One reason for which two dumps may differ; `find` is silent where it is not sure."""

    find: Find
