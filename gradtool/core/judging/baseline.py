"""Baselines: what healthy gradients of a model were like, for later dumps to be compared with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

SCHEMA: Final = "gradtool.baseline/1"

NORM_RTOL: Final = 1e-11
"""Norms that differ by less, relatively, are equal: they are right and stored to twelve digits."""


def rounded(value: float) -> float:
    """`value` to twelve digits: further ones would differ between machines, and so in git."""
    return float(f"{value:.12g}")


@dataclass(frozen=True, slots=True)
class NormRange:
    """The smallest and the largest of some norms."""

    low: float
    high: float

    @classmethod
    def of(cls, norms: Iterable[float]) -> NormRange:
        """The range of at least one norm, rounded as baselines are."""
        ends = list(map(rounded, norms))
        return cls(min(ends), max(ends))

    def factor(self, norm: float) -> float:
        """How far outside the range `norm` is: its ratio to the nearer end, or the inverse.

        At least 1, and 1 inside: a tenth is as far off as ten times. NaN for NaN; infinite between
        zero and anything else.
        """
        if math.isnan(norm):
            return math.nan
        if self.low <= norm <= self.high:
            return 1.0
        small, large = (norm, self.low) if norm < self.low else (self.high, norm)
        factor = large / small if small > 0.0 else math.inf
        return factor if factor > 1.0 + NORM_RTOL else 1.0


@dataclass(frozen=True, slots=True)
class BaselineTensor:
    """What one tensor was like in the dumps of a baseline.

    Attributes:
        dtype: its name in safetensors.
        shape: sizes.
        norm: the range of its norm over the dumps.
        zeros: the largest share of its elements, from 0 to 1, that were 0 in a dump.
    """

    dtype: str
    shape: tuple[int, ...]
    norm: NormRange
    zeros: float


@dataclass(frozen=True, slots=True)
class Baseline:
    """What one or several healthy dumps of a model were like.

    Attributes:
        path: of the file that it was read from, or is to be written to.
        norm_type: p of the norms.
        dumps: paths of the dumps that it was made of.
        total: the range over the dumps of the norm of all gradients together.
        tensors: by name, in the natural order of names.
    """

    path: str
    norm_type: float
    dumps: tuple[str, ...]
    total: NormRange
    tensors: Mapping[str, BaselineTensor]
