"""What gradients were like when they were well: norms to compare others with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

SCHEMA: Final = "gradtool.baseline/1"

CERTAIN: Final = 1e-11
"""Norms that are closer are the same: they are kept to twelve digits and right to as many."""


def rounded(value: float) -> float:
    """A figure to twelve digits: more would differ between machines, and in git."""
    return float(f"{value:.12g}")


@dataclass(frozen=True, slots=True)
class NormRange:
    """The least and the largest norm that was seen."""

    low: float
    high: float

    @classmethod
    def of(cls, norms: Iterable[float]) -> NormRange:
        """The range of some norms, of which there is at least one, to the digits of a baseline."""
        found = list(map(rounded, norms))
        return cls(min(found), max(found))

    def factor(self, norm: float) -> float:
        """How far outside a norm is: the larger over the smaller, and 1 inside.

        So that a tenth is as far off as ten times. NaN for NaN; infinite between zero and what
        is not.
        """
        if math.isnan(norm):
            return math.nan
        if self.low <= norm <= self.high:
            return 1.0
        small, large = (norm, self.low) if norm < self.low else (self.high, norm)
        factor = large / small if small > 0.0 else math.inf
        return factor if factor > 1.0 + CERTAIN else 1.0


@dataclass(frozen=True, slots=True)
class BaselineTensor:
    """One tensor of a baseline.

    Attributes:
        dtype: safetensors' name of it.
        shape: sizes.
        norm: its norms in the dumps.
        zeros: the largest share of its elements that were 0.
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
        total: the norm of all gradients together.
        tensors: by name, in the natural order of names.
    """

    path: str
    norm_type: float
    dumps: tuple[str, ...]
    total: NormRange
    tensors: Mapping[str, BaselineTensor]
