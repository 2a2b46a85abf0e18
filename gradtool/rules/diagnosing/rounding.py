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

_NAMES: Final = {"TF32": "TF32 (or scaled F16)"}

_UNITS: Final = {"BF16": 8.0, "TF32": 2.0, "F16": 8.0, "F32": 64.0, "F64": 64.0}
"""How many units of rounding two results of one computation may be apart, relatively: each layer
that is computed in a narrow type adds one or so; in wide ones sums over a batch lose more digits.
Gradients of a GPT of 4 layers that is computed in bf16 are 1 to 4.5 units off.
"""

_PEAK: Final = 2.0
"""How much further, by the largest element, a single element may be off."""

_LEAST_SHIFT: Final = 0.5
"""Part of a distance that may be in one direction: rounding has none, a factor is nothing else."""


class _Rounded(NamedTuple):
    """A tensor that rounding explains: in which words, with places for how and for the type.

    `is_certain` says that the numbers show it themselves, and not their distance alone;
    `is_on_grid` that they show the type, which is narrower than the one that they are stored in.
    """

    tensor: TensorDifference
    words: str
    dtype: str
    distance: float
    is_certain: bool = True
    is_on_grid: bool = False


def _rounding(evidence: Evidence) -> Iterator[Told]:
    found, grids = list[_Rounded](), set[tuple[str | None, str | None]]()
    for tensor in evidence.compared:
        grid = _grids(tensor, evidence, grids)
        if grid is not None:
            grids.add(grid)
        one = _rounded(tensor, grid)
        if one is not None:
            found.append(one)
    counted = [pair for pair in evidence.open if id(pair) not in evidence.negligible]
    # All tensors have one source of noise: where most are further apart, it is not rounding's.
    if 2 * len(found) < len(counted):
        found = [one for one in found if one.is_certain]
    else:
        found += _computed_from(found, evidence)
    if any(one.dtype == "TF32" for one in found):
        # Numbers that float16 holds are of as many bits.
        found = [one._replace(dtype="TF32") if one.dtype == "F16" else one for one in found]
    groups = dict.fromkeys((one.words, one.dtype) for one in found)
    for words, dtype in groups:
        members = [one for one in found if (one.words, one.dtype) == (words, dtype)]
        tensors = [one.tensor for one in members]
        most = max(
            (one.distance for one in members if id(one.tensor) not in evidence.negligible),
            default=0.0,
        )
        size = f", rel L2 at most {significant(most, 2)}," if most else ""
        name = _NAMES.get(dtype, dtype)
        is_all = all(one.is_certain for one in members)
        how = "only rounding to" if is_all else "rounding noise of"
        than = "otherwise" if len(groups) > 1 else "by more"
        yield Told(f"{words.format(name, how=how)}{size} {scope(tensors, evidence, than)}", tensors)


def _computed_from(found: Sequence[_Rounded], evidence: Evidence) -> Iterator[_Rounded]:
    """What is as near and on no grid, beside much that is: norms' gradients under autocast, say."""
    names = [one.dtype for one in found if one.is_on_grid]
    known = {id(one.tensor) for one in found}
    for name in list(dict.fromkeys(names))[:1]:
        for tensor in evidence.compared:
            if id(tensor.pair) not in known and _is_noise(tensor, name):
                words = "{how} {}, as of what is computed from numbers in it"
                distance = tensor.rel_l2 or 0.0
                yield _Rounded(tensor.pair, words, name, distance, is_certain=False)


def _rounded(tensor: Compared, grids: tuple[str | None, str | None] | None) -> _Rounded | None:
    found, pair = tensor.distance, tensor.pair
    a, b = found.a, found.b
    if (a.nan, a.posinf, a.neginf) != (b.nan, b.posinf, b.neginf):
        return None
    relative, names = tensor.rel_l2 or 0.0, [dtype.name for dtype in tensor.dtypes]
    if found.differing == 0:
        return _Rounded(pair, "no rounding: the same numbers in two types, {}", ", ".join(names), 0)
    narrow = min(tensor.dtypes, key=lambda dtype: (dtype.bits, dtype.precision)).name
    if pair.equal_when_rounded:
        return _Rounded(pair, "{how} {}: equal once rounded", narrow, relative)
    if _is_noise(tensor, narrow):
        return _Rounded(pair, "{how} {}", narrow, relative, is_certain=False)
    return None if grids is None else _on_grids(tensor, grids)


def _grids(
    tensor: Compared, evidence: Evidence, before: set[tuple[str | None, str | None]]
) -> tuple[str | None, str | None] | None:
    """The narrow types that numbers of wide ones fit into, where that may be why they differ.

    What is not read again is taken to be as all others were, if these were alike.
    """
    narrow = [dtype.name for dtype in tensor.dtypes if dtype.name not in ("F32", "F64")]
    if narrow or not _is_noise(tensor, "BF16") or _is_noise(tensor, tensor.dtypes[0].name):
        return None
    grids = evidence.look.grids(tensor.pair)
    if grids is None and len(before) == 1 and tensor.name in evidence.look.unread:
        (grids,) = before
    return grids


def _is_noise(tensor: Compared, dtype: str) -> bool:
    """Whether rounding to that type may be all that sets both sides apart."""
    found, peak = tensor.distance, max(tensor.distance.a.max_abs, tensor.distance.b.max_abs)
    if dtype not in _PRECISION or tensor.rel_l2 is None:
        return False
    bound = _UNITS[dtype] * 2.0 ** -_PRECISION[dtype]
    largest = 0.0 if found.largest is None else found.largest.distance
    if tensor.rel_l2 > bound or largest > _PEAK * bound * peak:
        return False
    shift = _LEAST_SHIFT + 4.0 / math.sqrt(found.numel)
    return abs((found.best_scale or 0.0) - 1.0) <= min(shift, 1.0) * tensor.rel_l2


def _on_grids(tensor: Compared, grids: tuple[str | None, str | None]) -> _Rounded | None:
    """Numbers that are in a wide type, and have been in a narrow one."""
    relative = tensor.rel_l2 or 0.0
    if grids == (None, None):
        return None
    one, _ = grids
    known = [name for name in grids if name is not None]
    name = min(known, key=lambda grid: _PRECISION[grid])
    if not _is_noise(tensor, name):
        return None
    if len(known) == 2:
        words = "{how} {}, which all numbers of both sides fit into"
        return _Rounded(tensor.pair, words, name, relative, is_certain=False, is_on_grid=True)
    side = "B" if one is None else "A"
    steps = 1 << tensor.dtypes[0].precision - _PRECISION[name]
    is_next = (tensor.distance.max_ulps or 0) <= steps
    words = f"{{how}} {{}}, which all numbers of {side} fit into"
    return _Rounded(tensor.pair, words, name, relative, is_certain=is_next, is_on_grid=True)


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
            "distance is at most 8 units of rounding of the narrower type for 16 bits and "
            "64 for wider ones, no element is off by more than twice that by the largest element, "
            "no factor is in it, and it is so in most tensors. Numbers of 32 bits are called "
            "rounded to 16 only where those of a side fit into these."
        ),
        remedy="`max_rel_l2`, or `ulps`; the figure that is told is what it takes.",
    ),
)
