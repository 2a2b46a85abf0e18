"""GT401 to GT403: norms that are not what they were, or not those that are known."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradtool.core.figures import precise, short, significant
from gradtool.core.judging.baseline import NormRange
from gradtool.core.judging.rule import LARGEST, Parameter
from gradtool.rules.balance import NEGLIGIBLE
from gradtool.rules.evidence import DumpRule, Evidence, Limits, Problem, limit

EXPECTED, TOTAL_DRIFT, TENSOR_DRIFT = "GT401", "GT402", "GT403"


def _expected(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    norm, rtol = limit(limits.dump, "norm"), limit(limits.dump, "rtol")
    found = evidence.summary.norm
    if norm is None or rtol is None or not evidence.gradients or evidence.is_reported(found):
        return
    if not NormRange(norm, norm).factor(found) <= 1.0 + rtol:  # nor where it is NaN
        said = f"the total norm, {precise(found)}, is not the expected {short(norm)}"
        yield Problem(f"{said} within {short(rtol)} of it", value=found, limit=rtol)


def _total_drift(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    if evidence.is_part_of_baseline:
        return  # which the verdict notes
    if evidence.baseline is not None and evidence.knows_model:
        most = limit(limits.dump, "max_factor")
        yield from _drift(evidence, evidence.summary.norm, evidence.baseline.total, most)


def _tensor_drift(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    baseline = evidence.baseline
    if baseline is None:
        return
    least = NEGLIGIBLE * evidence.summary.finite_norm
    least_known = NEGLIGIBLE * baseline.total.high
    found: list[Problem] = []
    for tensor, thresholds in limits.each(evidence.gradients):
        known = baseline.tensors.get(tensor.name)
        if known is None or known.shape != tensor.spec.shape:
            continue
        if tensor.norm < least and known.norm.high < least_known:
            continue
        if known.norm.high == 0.0:
            continue  # it is alive now, and infinitely far off whatever its norm
        most = limit(thresholds, "max_factor")
        found.extend(_drift(evidence, tensor.norm, known.norm, most, tensor.name))
    yield from sorted(found, key=_furthest_first)


def _furthest_first(problem: Problem) -> tuple[bool, float]:
    """NaN is further than what became 0."""
    factor = math.nan if problem.value is None else problem.value
    return (False, 0.0) if math.isnan(factor) else (True, -factor)


def _drift(
    evidence: Evidence,
    norm: float,
    known: NormRange,
    most: float | None,
    tensor: str | None = None,
) -> Iterator[Problem]:
    """Problem where a norm is too far outside the known range; NaN is too far."""
    factor = known.factor(norm)
    if most is None or factor <= most or evidence.is_reported(norm):
        return
    was = precise(known.low)
    if known.low != known.high:
        was += f" to {precise(known.high)}"
    off = f", {_distance(factor)} off" if math.isfinite(factor) else ""
    what = f"{'its' if tensor else 'the total'} norm, {precise(norm)}, is not the baseline's"
    yield Problem(f"{what} {was}{off}", tensor, value=factor, limit=most)


def _distance(factor: float) -> str:
    """`13.4 times`, `0.12%`."""
    if factor >= 2.0:
        return f"{significant(factor, 3)} times"
    return f"{significant(100.0 * (factor - 1.0), 3)}%"


_FACTOR_MEANING = "largest factor outside the baseline's range, upwards or downwards"

RULES = (
    DumpRule(
        code=EXPECTED,
        name="expected-norm",
        find=_expected,
        summary="The total norm is not the expected one.",
        explanation=(
            "For runs that are to be reproduced: one number instead of a baseline. It is in "
            "force where a norm is given (`GT401.norm=9.01`)."
        ),
        threshold=(
            "rtol is 1e-3: the same step on another machine or in another order of sums differs "
            "less in float32; bfloat16 may need 1e-2."
        ),
        remedy="Look at what changed: seed, data, versions, precision, parallelism.",
        parameters=(
            Parameter("norm", None, "the total norm", high=LARGEST),
            Parameter(
                "rtol", 1e-3, "largest difference, relative to the smaller one", high=LARGEST
            ),
        ),
    ),
    DumpRule(
        code=TOTAL_DRIFT,
        name="total-drift",
        compares=True,
        find=_total_drift,
        summary="The total norm is far from the baseline's.",
        explanation=(
            "The norm of all gradients is outside the range that the baseline's dumps had. "
            "A tenth is as far off as ten times."
        ),
        threshold=(
            "max_factor is 10. Between seeds and steps of a healthy small transformer total norms "
            "differed by up to 3; for runs that are to be reproduced `rtol=1e-3` says 1.001."
        ),
        remedy=("See GT403 for the tensors. If the change is meant, `gradtool baseline update`."),
        parameters=(Parameter("max_factor", 10.0, _FACTOR_MEANING, low=1.0),),
    ),
    DumpRule(
        code=TENSOR_DRIFT,
        name="tensor-drift",
        compares=True,
        per_tensor=True,
        find=_tensor_drift,
        summary="A tensor's norm is far from the baseline's.",
        explanation=(
            "The same as GT402, for one tensor. Left out are those below 1e-5 of the total norm "
            "both in the dump and in the baseline, and those that were 0 in the baseline."
        ),
        threshold=(
            "max_factor is 30. Over 6 seeds of a healthy small transformer norms of one tensor "
            "left the range of another seed's run by a factor of at most 4.5; a learning rate 100 "
            "times too high and a layer scaled by 1e4 took some tensor out by more than 130. Make "
            "the baseline of several steps: from a single dump others of the same run differ by "
            "15 there, and by 700 in other models."
        ),
        remedy="Look at that layer. If the change is meant, `gradtool baseline update`.",
        parameters=(Parameter("max_factor", 30.0, _FACTOR_MEANING, low=1.0),),
    ),
)
