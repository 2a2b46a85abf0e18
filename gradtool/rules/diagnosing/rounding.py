"""GT511: no more than rounding does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from gradtool.core.comparing.difference import TensorDifference
from gradtool.core.figures import significant
from gradtool.rules.diagnosing.evidence import Compared, Diagnosis, Evidence, Told
from gradtool.rules.diagnosing.words import scope

_PRECISION: Final = {"BF16": 8, "TF32": 11, "F16": 11, "F32": 24, "F64": 53}
"""Bits of a significand with the hidden one."""

_UNITS: Final = {"BF16": 2.0, "TF32": 2.0, "F16": 2.0, "F32": 64.0, "F64": 64.0}
"""How many units of rounding two results of one computation may be apart, relatively: narrow types
are rounded to once, from sums in a wider one; in wide ones sums over a batch lose more digits.
"""

_PEAK: Final = 2.0
"""How much further, by the largest element, a single element may be off."""

_LEAST_SHIFT: Final = 0.5
"""Part of a distance that may be in one direction: rounding has none, a factor is nothing else."""


class _Rounded(NamedTuple):
    tensor: TensorDifference
    words: str
    distance: float


def _rounding(evidence: Evidence) -> Iterator[Told]:
    found = [one for tensor in evidence.compared if (one := _rounded(tensor, evidence)) is not None]
    kinds = dict.fromkeys(one.words for one in found)
    for words in kinds:
        members = [one for one in found if one.words == words]
        tensors = [one.tensor for one in members]
        most = max(one.distance for one in members)
        size = f", a rel L2 of at most {significant(most, 2)}" if most else ""
        yield Told(f"{words} {scope(tensors, evidence)}{size}", tensors)


def _rounded(tensor: Compared, evidence: Evidence) -> _Rounded | None:
    found = tensor.distance
    a, b = found.a, found.b
    if found.rel_l2 is None or (a.nan, a.posinf, a.neginf) != (b.nan, b.posinf, b.neginf):
        return None
    if found.differing == 0:
        one, other = (dtype.name for dtype in tensor.dtypes)
        return _Rounded(tensor.pair, f"no rounding: the same numbers as {one} and as {other}", 0.0)
    if tensor.pair.equal_when_rounded:
        narrow = min(tensor.dtypes, key=lambda dtype: (dtype.bits, dtype.precision)).name
        return _Rounded(tensor.pair, f"only rounding to {narrow}: equal once rounded", found.rel_l2)
    narrow = min((dtype.name for dtype in tensor.dtypes), key=lambda n: _PRECISION.get(n, 0))
    if _is_noise(tensor, narrow):
        return _Rounded(tensor.pair, f"rounding noise of {narrow}", found.rel_l2)
    if narrow in ("F32", "F64") and _is_noise(tensor, "BF16"):
        return _on_grids(tensor, evidence)
    return None


def _is_noise(tensor: Compared, dtype: str) -> bool:
    """Whether rounding to that type may be all that sets both sides apart."""
    found, peak = tensor.distance, max(tensor.distance.a.max_abs, tensor.distance.b.max_abs)
    if dtype not in _PRECISION or found.rel_l2 is None or found.best_scale is None:
        return False
    bound = _UNITS[dtype] * 2.0 ** -_PRECISION[dtype]
    largest = 0.0 if found.largest is None else found.largest.distance
    if found.rel_l2 > bound or largest > _PEAK * bound * peak:
        return False
    shift = _LEAST_SHIFT + 4.0 / math.sqrt(found.numel)
    return abs(found.best_scale - 1.0) <= min(shift, 1.0) * found.rel_l2


def _on_grids(tensor: Compared, evidence: Evidence) -> _Rounded | None:
    """Numbers that are in a wide type, and have been in a narrow one."""
    grids = evidence.look.grids(tensor.pair)
    relative = tensor.distance.rel_l2 or 0.0
    if grids is None or grids == (None, None):
        return None
    one, other = grids
    name = one or other or ""
    if one is not None and other is not None:
        name = min(one, other, key=lambda grid: _PRECISION[grid])
        words = f"rounding noise of {name}, which all numbers of both sides fit into"
    else:
        words = f"only rounding to {name}: all numbers of {'B' if one is None else 'A'} fit into it"
    return _Rounded(tensor.pair, words, relative) if _is_noise(tensor, name) else None


RULES: Sequence[Diagnosis] = (
    Diagnosis(
        code="GT511",
        name="rounding",
        find=_rounding,
        summary="What differs is no more than rounding does.",
        explanation=(
            "Both sides are one result, rounded to a narrower type on one of them, or computed by "
            "sums in another order. Nothing is wrong with it: give a tolerance that allows it."
        ),
        rationale=(
            "Of two types, all elements are equal once rounded to the narrower one. Else the "
            "distance is at most 2 units of rounding of the narrower type for 16 bits and "
            "64 for wider ones, no element is off by more than twice that by the largest element, "
            "and no factor is in it. Numbers of 32 bits are called rounded to 16 only where all "
            "of a side fit into these."
        ),
        remedy="`max_rel_l2`, or `ulps`; the figure that is told is what it takes.",
    ),
)
