"""Which tensors make up most of a dump's norm, and how much of it."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gradtool.core.measurement import Summary, TensorMeasurement
from gradtool.core.stats import TensorStats

HEAVIEST: Final = 4
"""Tensors of a dump that are known to weigh most: as many as a sentence has room for, and one."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor, and its share of the sum of powers, from 0 to 1.

    The share is None where norms are no sums, or the whole is 0.
    """

    name: str
    share: float | None


_NAMED: Final = 3
_LEAST_NAMED: Final = 0.05
"""Tensors that are named as those which make a norm: at most so many, of so large a share."""


def makers(weights: Sequence[Weight]) -> tuple[Weight, ...]:
    """Of the heaviest tensors those that are named as the ones which make up the norm."""
    others = weights[1:_NAMED]
    large = (one for one in others if one.share is not None and one.share >= _LEAST_NAMED)
    return (*weights[:1], *large)


def percent(share: float) -> str:
    """`80.1 %`, three digits of it."""
    return f"{100.0 * share:.3g} %"


def share_of(stats: TensorStats, total: Summary) -> float | None:
    """What part of the whole's sum of powers is these elements', without NaN and Inf."""
    p, whole = stats.norm_type, total.finite_norm
    if not 0.0 < p < math.inf or not 0.0 < whole < math.inf:
        return None
    return min(1.0, math.pow(stats.finite_norm / whole, p))


def heaviest(gradients: Sequence[TensorMeasurement], total: Summary) -> tuple[Weight, ...]:
    """The tensors with the largest norms, none of them 0, the heaviest first."""
    largest = heapq.nlargest(HEAVIEST, gradients, key=lambda tensor: tensor.finite_norm)
    return tuple(
        Weight(tensor.name, share_of(tensor.stats, total))
        for tensor in largest
        if tensor.finite_norm != 0.0
    )
