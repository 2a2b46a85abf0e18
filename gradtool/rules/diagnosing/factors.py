"""GT505 to GT507: one dump is a multiple of the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from gradtool.core.comparing.sums import ratio, total
from gradtool.core.judging.quotient import TOLERANCE, explained, plain
from gradtool.rules.diagnosing.evidence import Compared, Diagnosis, Evidence, Told
from gradtool.rules.diagnosing.words import scope, which

MOST_LEFT: Final = 0.01
"""What may be left, relatively, of a tensor that is a multiple of another but for rounding: bf16
leaves 0.002, and arithmetic in it several times that; another batch leaves all.
"""

_LEAST_COSINE: Final = 1.0 - MOST_LEFT
"""More is left of all that are further from one line: it saves time."""

_FROM_ONE: Final = 16.0
"""By how many times what is left a factor must be away from 1: below, rounding may be all."""

_ALIKE: Final = 2e-3
"""Relative distance of factors that are one: rounding moves each by less."""

_LEAST_NUMBERS: Final = 4
"""Numbers that are not 0 in a tensor of which figures prove something: two have any cosine."""

_MOST_FACTORS: Final = 3
_LEAST_TIGHT: Final = 1e-6
_MOST_RANKS: Final = 1024


class _Scaled(NamedTuple):
    tensor: Compared
    factor: float
    left: float

    @property
    def is_telling(self) -> bool:
        """Whether the tensor has numbers enough to prove something: of an exact multiple, two."""
        return self.tensor.numbers >= (2 if self.left <= _LEAST_TIGHT else _LEAST_NUMBERS)


class _Group(NamedTuple):
    """Tensors of one factor."""

    factor: float
    members: tuple[_Scaled, ...]

    @property
    def left(self) -> float:
        """The most that is left of one of them."""
        return max(one.left for one in self.members)

    def are_times(self, factor: float) -> bool:
        """Whether that is the factor of all."""
        return all(_agree(one.factor, factor, one.left) for one in self.members)


def _agree(one: float, other: float, left: float) -> bool:
    return abs(one - other) <= max(left, _LEAST_TIGHT) * abs(other)


def _groups(evidence: Evidence) -> list[_Group]:
    """The tensors that are multiples, by their factors, those of most tensors first."""
    found = [
        group
        for members in _chained(evidence)
        if any(one.is_telling for one in members)
        for group in _of_one_factor(members)
    ]
    return sorted(found, key=lambda group: -len(group.members))


def _chained(evidence: Evidence) -> list[list[_Scaled]]:
    """The tensors that are multiples, in runs in which each factor is next to the one before."""
    scaled = sorted(filter(None, map(_scaled, evidence.compared)), key=lambda one: one.factor)
    groups: list[list[_Scaled]] = []
    for one in scaled:
        if groups and _agree(one.factor, groups[-1][-1].factor, max(_ALIKE, one.left)):
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _of_one_factor(members: list[_Scaled]) -> Iterator[_Group]:
    """The best factor of all of them, if it is that of each, else each one's own."""
    products = [one.tensor.distance.products for one in members]
    # Tensors of one dump: a sum over all of them is as safe as that over one.
    best = ratio(total(one.ab for one in products), total(one.aa for one in products))
    if best is not None and all(_agree(one.factor, best, max(_ALIKE, one.left)) for one in members):
        yield _Group(best, tuple(members))
        return
    yield from (_Group(one.factor, (one,)) for one in members)


def _scaled(tensor: Compared) -> _Scaled | None:
    """The tensor's factor; None where it is no multiple, or of the same size but for rounding."""
    found = tensor.distance
    if abs(tensor.cosine or 0.0) < _LEAST_COSINE or found.a.nonfinite != found.b.nonfinite:
        return None
    if tensor.scaled is None or tensor.scaled[1] > MOST_LEFT:
        return None
    factor, left = tensor.scaled
    is_one = abs(factor - 1.0) <= _FROM_ONE * max(left, tensor.unit)
    return None if is_one else _Scaled(tensor, factor, left)


def _double_counted(evidence: Evidence) -> Iterator[Told]:
    """Replicated vectors that were added up over ranks, beside matrices that agree."""
    groups = _groups(evidence)
    if len(groups) != 1 or len(groups[0].members) != len(evidence.differing):
        return
    group, same = groups[0], [pair for pair in evidence.pairs if pair.same]
    vectors = [one.tensor.pair for one in group.members]
    ranks = next((n for n in _ranks() if group.are_times(n) or group.are_times(1 / n)), None)
    matrices = [pair for pair in same if len(pair.a.shape) > 1]
    if ranks is None or len(vectors) < 2 or len(matrices) < 2:
        return
    if any(len(pair.a.shape) > 1 for pair in vectors):
        return
    side = "B" if group.factor > 1.0 else "A"
    yield Told(
        f"factor {plain(group.factor)} in {which(vectors, evidence)}, all of them vectors, while "
        f"all {len(matrices):,} matrices agree: what is replicated over {ranks} tensor-parallel "
        f"ranks is added up in {side}?",
        vectors,
    )


def _ranks() -> Iterator[int]:
    count = 2
    while count <= _MOST_RANKS:
        yield count
        count *= 2


def _sign(evidence: Evidence) -> Iterator[Told]:
    for group in _groups(evidence):
        if group.are_times(-1.0):
            tensors = [one.tensor.pair for one in group.members]
            yield Told(
                f"the sign is flipped {scope(tensors, evidence)}{_besides(group)}",
                tensors,
            )


def _factor(evidence: Evidence) -> Iterator[Told]:
    groups = _groups(evidence)
    if len(groups) > _MOST_FACTORS:
        tensors = [one.tensor.pair for group in groups for one in group.members]
        factors = sorted(group.factor for group in groups)
        span = f"from {plain(factors[0])} to {plain(factors[-1])}"
        yield Told(f"a factor of its own, {span}, {scope(tensors, evidence)}", tensors)
        return
    for group in groups:
        tensors = [one.tensor.pair for one in group.members]
        yield Told(
            f"factor {plain(group.factor)}{_meaning(group, evidence)} "
            f"{scope(tensors, evidence)}{_besides(group)}",
            tensors,
        )


def _besides(group: _Group) -> str:
    if group.left <= _LEAST_TIGHT:
        return ""
    return f" (but for a rest of {group.left:.1g}, relatively)"


def _meaning(group: _Group, evidence: Evidence) -> str:
    size = abs(group.factor)
    tolerance = min(max(group.left, _LEAST_TIGHT), TOLERANCE)
    text = explained(size, evidence.known, tolerance)
    sign = ", the sign flipped" if group.factor < 0.0 else ""
    if text is None:
        return sign
    mean = " a sum against a mean" if "steps or ranks" in text and "root" not in text else ""
    return f"{sign} ({text}{mean})"


_EXPLANATION = (
    "Each tensor of B is, but for rounding, one number times that of A: |b - s a| is next to "
    "nothing for the best s. Directions agree, so that nothing is wrong in a layer: a loss is "
    "summed where it should be averaged, gradients of ranks or accumulation steps are added up, or "
    "one side is saved with a loss scale or after clipping."
)

RULES: Sequence[Diagnosis] = (
    Diagnosis(
        code="GT505",
        name="double-counted",
        find=_double_counted,
        summary="Replicated tensors alone are a whole number of times as large.",
        explanation=(
            "Norms' weights and biases are held by all ranks of a tensor-parallel group, matrices "
            "are cut over them. Where the former alone are 2, 4, 8 times as large, their gradients "
            "were added up over ranks that hold copies."
        ),
        rationale=(
            "All tensors that differ have one dimension and one factor, a power of two or its "
            "inverse, and there are matrices that agree."
        ),
        remedy="Reduce replicated gradients over one rank of each group, or take their mean.",
    ),
    Diagnosis(
        code="GT506",
        name="sign",
        find=_sign,
        summary="Tensors are those of the other dump with the sign flipped.",
        explanation="B is -1 times A but for rounding: a loss is maximised, or a term subtracted.",
        rationale=f"What is left after it is at most {MOST_LEFT:g} of the tensor.",
        remedy="Look at the sign of the loss, or of the one tensor in its own backward function.",
    ),
    Diagnosis(
        code="GT507",
        name="factor",
        find=_factor,
        summary="Tensors are those of the other dump times one factor.",
        explanation=_EXPLANATION,
        rationale=(
            f"What is left after the best scale is at most {MOST_LEFT:g} of the tensor, and the "
            f"factor is {_FROM_ONE:g} times that away from 1, and as far from what rounding does."
        ),
        remedy=(
            "See which number it is: of ranks, of accumulation steps, a loss scale (`loss_scale` "
            "divides by it), the coefficient of clipping."
        ),
    ),
)
