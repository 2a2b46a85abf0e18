"""GT501, GT503, GT504: sides that are dead, or not finite."""

from __future__ import annotations

import cmath
from collections.abc import Iterator, Sequence

from gradtool.core.comparing.conclusion import DEAD_SIDES
from gradtool.core.comparing.distance import Number
from gradtool.core.figures import counted, index_text
from gradtool.core.shapes.strides import unravel
from gradtool.core.stats import TensorStats
from gradtool.rules.diagnosing.evidence import Compared, Diagnosis, Evidence, Told, is_dead
from gradtool.rules.diagnosing.words import scope


def _dead_sides(evidence: Evidence) -> Iterator[Told]:
    found = [pair for pair in evidence.pairs if pair.distance is not None]
    if found and all(map(is_dead, found)):
        yield Told("no element of either dump is finite and not 0: two dead runs agree")


def _dead_side(evidence: Evidence) -> Iterator[Told]:
    for side, other in ((0, 1), (1, 0)):
        dead = [
            one.pair
            for one in evidence.compared
            if _is_zero(one, side, other) and id(one.pair) not in evidence.negligible
        ]
        if dead:
            here, there = "AB"[side], "AB"[other]
            yield Told(
                f"all elements are 0 in {here}, and not in {there}, {scope(dead, evidence)}", dead
            )


def _is_zero(tensor: Compared, side: int, other: int) -> bool:
    sides = (tensor.distance.a, tensor.distance.b)
    # What is too small for the narrower of two types is no dead gradient, but rounding.
    is_rounded = tensor.pair.equal_when_rounded
    is_zero = sides[side].zeros == sides[side].numel
    return is_zero and sides[other].max_abs > 0.0 and not is_rounded


def _nonfinite(evidence: Evidence) -> Iterator[Told]:
    for kind, count in (("NaN", _nan), ("Inf", _inf)):
        for side, other in ((0, 1), (1, 0)):
            found = [
                one
                for one in evidence.compared
                if count(_sides(one)[side]) and not count(_sides(one)[other])
            ]
            is_first = kind == "NaN" or not any(_nan(_sides(one)[side]) for one in found)
            if found and is_first:
                yield _one_sided(found, kind, side, sum(count(_sides(one)[side]) for one in found))


def _one_sided(found: Sequence[Compared], kind: str, side: int, total: int) -> Told:
    first = found[0]
    known = first.distance.samples
    at = next((one.position for one in known if _kind((one.a, one.b)[side]) == kind), None)
    place = "" if at is None else f" at {index_text(unravel(at, first.pair.a.shape))}"
    where = f"in {counted(len(found), 'tensor')}, first " if len(found) > 1 else ""
    last = f", last in {found[-1].name!r:.80}" if len(found) > 1 else ""
    return Told(
        f"{total:,} {kind} in {'AB'[side]} alone, {where}in {first.name!r:.80}{place}{last}",
        [one.pair for one in found],
    )


def _kind(number: Number) -> str | None:
    """`NaN` or `Inf`, of a complex number that of either part, NaN first; None for finite ones."""
    if cmath.isnan(number):
        return "NaN"
    return "Inf" if cmath.isinf(number) else None


def _sides(tensor: Compared) -> tuple[TensorStats, TensorStats]:
    return tensor.distance.a, tensor.distance.b


def _nan(stats: TensorStats) -> int:
    return stats.nan


def _inf(stats: TensorStats) -> int:
    return stats.posinf + stats.neginf


RULES: Sequence[Diagnosis] = (
    Diagnosis(
        code=DEAD_SIDES,
        name="dead-sides",
        find=_dead_sides,
        summary="Neither dump has anything in it.",
        explanation=(
            "No element of all tensors that were compared is finite and not 0, on either side. Two "
            "runs that are broken alike agree in everything: such a comparison proves nothing, and "
            "fails."
        ),
        rationale="It is judged over all tensors that were chosen, never over one.",
        remedy="Dump after backward() and before zero_grad(), or look why both runs are dead.",
    ),
    Diagnosis(
        code="GT503",
        name="dead-side",
        find=_dead_side,
        summary="Tensors are all 0 in one dump alone.",
        explanation="No gradient arrives there: a graph is cut, a parameter frozen or never used.",
        rationale="Every element is 0 on one side, and some are finite and not 0 on the other.",
        remedy="Look for a detach(), a no_grad() or requires_grad=False in the run that has zeros.",
    ),
    Diagnosis(
        code="GT504",
        name="nonfinite-side",
        find=_nonfinite,
        summary="NaN or Inf is in one dump alone.",
        explanation=(
            "The tensors named have such elements on one side and none on the other. Backward goes "
            "from a model's end to its beginning: what broke first is the last one named."
        ),
        rationale="None: any is told.",
        remedy="`gradtool check` on that dump says between which layers it begins.",
    ),
)
