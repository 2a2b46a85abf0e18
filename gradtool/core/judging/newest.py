"""The rule about spikes for a run that still goes on: each norm as it comes, and no other again."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque

from gradtool.core.judging.levels import levels_among
from gradtool.core.judging.spikes import Spike, above_median, stands_out


class NewestNorms:
    """The last norms of a run, and whether the next one is a spike as the newest of them.

    That is what `above_median` says of the last of all norms until then, unless it is of a level
    that rose and stays, which `levels_among` knows. What it takes does not
    grow with the run: `window` norms are kept, in the order of their sizes too, and looked through
    only where a norm is `factor` times their median.

    Args:
        window, factor, max_z, min_spread: as for `above_median`.
        min_steps: how many norms there have to be, the new one among them.
        level_steps: how many before it, no more than the window has, must have risen for it to be
            of a level.
    """

    def __init__(
        self,
        *,
        window: int,
        factor: float,
        max_z: float,
        min_spread: float,
        min_steps: int,
        level_steps: int,
    ) -> None:
        self._limits = {"factor": factor, "max_z": max_z, "min_spread": min_spread}
        self._level_steps = level_steps
        self._min_steps = min_steps
        self._taken = 0
        self._last: deque[float] = deque(maxlen=window)
        self._ordered: list[float] = []

    def spike(self, norm: float) -> Spike | None:
        """What the norm, which is not taken in, would be; None where it is none, as 0 and NaN."""
        is_norm = 0.0 < norm < math.inf
        if not is_norm or not self._ordered or self._taken + 1 < self._min_steps:
            return None
        factor = self._limits["factor"]
        if not stands_out(norm, self._ordered, factor):
            return None
        norms = [*self._last, norm]
        window = self._last.maxlen or len(norms)
        found = above_median(norms, window=window, **self._limits)
        spike = next((one for one in found if one.position == len(norms) - 1), None)
        if spike is None or levels_among(norms, [(spike, factor)], self._level_steps).settled:
            return None
        return spike

    def take(self, norm: float) -> None:
        """Have that norm among the last; one that is 0 or not finite is as if it were not there."""
        if not 0.0 < norm < math.inf:
            return
        if len(self._last) == self._last.maxlen:
            del self._ordered[bisect_left(self._ordered, self._last[0])]
        self._last.append(norm)
        insort(self._ordered, norm)
        self._taken += 1
