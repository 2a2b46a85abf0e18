"""GT3xx: gradients that are out of proportion to the others of the dump."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from gradtool.core.figures import counted, precise, share, significant
from gradtool.core.judging.limits import Limits, limit
from gradtool.core.judging.rule import LARGEST_FLOAT, Parameter, Thresholds
from gradtool.core.measurement import TensorMeasurement
from gradtool.core.order.layers import split_name
from gradtool.rules.evidence import DumpRule, Evidence, Problem
from gradtool.rules.siblings import has_log

NEGLIGIBLE = 1e-5
"""Norms below this share of the total norm are not compared: gradients that are 0 but for
rounding, such as those of a key's bias, differ by any factor from one step to the next.
"""

_LEAST_SIBLINGS = 3
_LARGEST_EXPONENT = 709.0
_LEAST_TENSORS = 8


def _dominant(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    total, p = evidence.summary.norm, evidence.measurement.norm_type
    comparable = 0.0 < p < math.inf and 0.0 < total < math.inf
    if not comparable or sum(tensor.norm > 0.0 for tensor in evidence.gradients) < _LEAST_TENSORS:
        return
    stacks = {stem for stem, layers in evidence.structure.stacks.items() if len(layers) > 1}
    for tensors, thresholds in limits.runs(evidence.gradients):
        max_share = limit(thresholds, "max_share")
        if max_share is None:
            continue
        for tensor in tensors:
            actual = (_own_norm(tensor) / total) ** p
            if not actual > max_share:
                continue
            if stacks and split_name(tensor.name).stem not in stacks:
                continue
            percent = share(round(actual * 1e6), 1_000_000)
            whole = "squared total norm" if p == 2.0 else f"total norm to the power of {p:g}"
            others = counted(len(evidence.gradients) - 1, "other tensor")
            yield Problem(
                f"makes up {percent} of the {whole}, all {others} the rest",
                tensor.name,
                value=actual,
                limit=max_share,
            )


def _own_norm(tensor: TensorMeasurement) -> float:
    """Of each element once: an expanded tensor repeats its elements, and the total does not."""
    unique = tensor.unique
    return tensor.norm if unique is None or unique is tensor.stats else unique.norm


@dataclass(frozen=True, slots=True)
class _Outlier:
    """A tensor whose norm is far from the median of its kind.

    `z` is how far in robust standard deviations, above 0 for a larger norm, `distance` the absolute
    difference of the logarithms, and `limit` the largest z that was allowed.
    """

    tensor: TensorMeasurement
    z: float
    distance: float
    limit: float


def _outliers(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    """One problem for each layer, since what scales a layer scales all tensors in it."""
    layers: dict[str, list[_Outlier]] = {}
    for tensors, thresholds in limits.runs(evidence.gradients):
        for outlier in _outliers_among(tensors, thresholds, evidence):
            layers.setdefault(split_name(outlier.tensor.name).layer, []).append(outlier)
    for layer, outliers in layers.items():
        worst = max(outliers, key=lambda outlier: (abs(outlier.z), outlier.tensor.name))
        times = _times(worst.distance)
        where = "above" if worst.z > 0 else "below"
        inside = counted(evidence.layers[layer], "tensor")
        standing_out = f"{len(outliers)} of {inside} of {layer!r} stand out"
        yield Problem(
            f"its norm, {precise(worst.tensor.norm)}, is {times} times {where} the median of its "
            f"kind over the layers (robust z {worst.z:.1f}); {standing_out}"
            f"{_sound_neighbours(worst, evidence, layers)}",
            worst.tensor.name,
            value=abs(worst.z),
            limit=worst.limit,
        )


def _are_neighbours(_evidence: Evidence, names: Collection[str]) -> bool:
    """Whether the layers of these tensors follow each other: what scales one scales the next."""
    splits = [split_name(name) for name in names]
    numbers = {split.number for split in splits if split.number is not None}
    in_a_row = len(numbers) > 1 and max(numbers) - min(numbers) == len(numbers) - 1
    return in_a_row and len({split.stem for split in splits}) == 1


def _times(distance: float) -> str:
    """The text of e to the power of `distance`, which may be more than a float holds."""
    if distance < _LARGEST_EXPONENT:
        return significant(math.exp(distance), 3)
    return f"1e{distance / math.log(10.0):.0f}"


def _outliers_among(
    tensors: Sequence[TensorMeasurement], thresholds: Thresholds, evidence: Evidence
) -> Iterator[_Outlier]:
    max_z, min_spread = limit(thresholds, "max_z"), limit(thresholds, "min_spread")
    if max_z is None or min_spread is None:
        return
    negligible = NEGLIGIBLE * evidence.summary.finite_norm
    for tensor in tensors:
        kind = evidence.kinds[tensor.name]
        if kind.comparable < _LEAST_SIBLINGS or not has_log(tensor):
            continue
        scale = max(kind.spread, min_spread)
        if not kind.furthest / scale > max_z:
            continue
        if negligible > 0.0 and kind.median < math.log(negligible):
            continue
        distance = math.log(tensor.norm) - kind.median
        if abs(distance / scale) > max_z:
            yield _Outlier(tensor, distance / scale, abs(distance), max_z)


def _sound_neighbours(worst: _Outlier, evidence: Evidence, outlying: Collection[str]) -> str:
    """The end of a message: which layers next to the outlier's are sound; empty if none is.

    The fault lies at such an edge. A layer whose activations are too large leaves the gradients of
    layers before it as they were, and makes those behind it small where a normalization divides by
    its activations.
    """
    split = split_name(worst.tensor.name)
    number = split.number or 0  # it has siblings, and so a number

    def is_sound(name: str) -> bool:
        return name in evidence.layers and name not in outlying

    before, after = (f"{split.stem}{number + step}" for step in (-1, 1))
    if worst.z < 0 and is_sound(before):
        return f"; {before!r} before it is sound, and may give out too much"
    sound = [repr(name) for name in (before, after) if is_sound(name)]
    verb = "is" if len(sound) == 1 else "are"
    return f"; next to it, {' and '.join(sound)} {verb} sound" if sound else ""


RULES = (
    DumpRule(
        code="GT301",
        name="dominant-tensor",
        severity="warning",
        per_tensor=True,
        find=_dominant,
        alike="nearly all of the norm",
        summary="One tensor makes up nearly all of the total norm.",
        explanation=(
            "Clipping by the total norm then scales everything by what that one tensor does, and "
            "the others hardly move."
        ),
        rationale=(
            "max_share is 0.95; in healthy runs of small transformers and a convolutional net no "
            "tensor of a layer had more than 0.71. Tensors of no layer are left out where there "
            "are layers: an embedding that is the head as well had up to 0.97 in healthy runs of "
            "a small GPT-2. Dumps of fewer than 8 tensors that are not 0 are not judged, nor norms "
            "without powers to add."
        ),
        remedy=(
            "Look at that layer's scale and initialization; clip it apart, per tensor or per group."
        ),
        parameters=(
            Parameter("max_share", 0.95, "largest share in the squared total norm", high=1.0),
        ),
    ),
    DumpRule(
        code="GT302",
        name="sibling-outlier",
        per_tensor=True,
        find=_outliers,
        is_one_fault=_are_neighbours,
        alike="far from their kind",
        summary="A tensor's norm is far from those of its kind in other layers.",
        explanation=(
            "Norms of one kind of tensor change slowly from layer to layer. One that stands out "
            "by orders of magnitude points at a wrong scale, a wrong initialization or a cut "
            "gradient, in that layer or in one next to it: what makes activations large makes "
            "gradients small in the layers behind, where a normalization divides by them. "
            "Tensors are of one kind if they have one shape, one name but for the first number in "
            "it, and layers with the same tensors. Compared are logarithms, by the median and the "
            "median absolute deviation, which a single outlier does not move. Left out are kinds "
            "of fewer than 3, and those whose median is below 1e-5 of the total norm."
        ),
        rationale=(
            "max_z is 6 and min_spread 1, so that a tensor is e^6 = 403 times from the median at "
            "least. Healthy layers of a small transformer reach 2.1, the first of a small GPT-2 in "
            "its first hundred steps 4.9, a layer behind one scaled by 1e4 at least 8.7."
        ),
        remedy="Compare that layer with its neighbours: `gradtool inspect -g 'layers.*'`.",
        parameters=(
            Parameter("max_z", 6.0, "largest robust z-score of the norm's logarithm"),
            Parameter(
                "min_spread",
                1.0,
                "least standard deviation of the logarithms",
                low=1e-6,
                high=LARGEST_FLOAT,
            ),
        ),
    ),
)
