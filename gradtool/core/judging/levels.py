"""Norms that rose and stay as high: which of those that stand out are of such a level."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from gradtool.core.judging.spikes import Spike


@dataclass(frozen=True, slots=True)
class Level:
    """Norms in a row that are higher than those before them, and alike.

    Attributes:
        first: position of the first of them.
        told: position of the norm at which that is known: nothing after it is looked at.
        usual: the norm before.
        times: how many times that the median of them is, until `told`.
    """

    first: int
    told: int
    usual: float
    times: float


@dataclass(slots=True)
class Levels:
    """The levels of some norms, and the positions of norms that stand out and are of one."""

    levels: list[Level] = field(default_factory=list)
    settled: set[int] = field(default_factory=set)


def levels_among(
    norms: Sequence[float], found: Iterable[tuple[Spike, float]], steps: int
) -> Levels:
    """The levels among norms of which `found` stand out, each from a factor on, in their order.

    One that stands out is of a level if the `steps` norms before it have risen too, and it does
    not stand out from them: half way to the factor, on a logarithmic scale, is the border of both.
    So a norm that is `factor` times those of a level is of none.
    """
    levels = Levels()
    last = -1
    for spike, factor in found:
        half, at = math.sqrt(factor), spike.position
        before = norms[max(at - steps, 0) : at]
        is_risen = len(before) == steps and min(before) >= half * spike.usual
        if not is_risen or norms[at] >= half * median(before):
            continue
        levels.settled.add(at)
        first = at
        while first > last and norms[first - 1] >= half * spike.usual:
            first -= 1
        if first > last:
            times = median(norms[first : at + 1]) / spike.usual
            levels.levels.append(Level(first, at, spike.usual, times))
        last = at
    return levels
