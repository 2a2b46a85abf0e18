"""GT401 to GT403, GT410: norms that are not those of a baseline, or not the expected ones."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradtool.core.figures import counted, precise, short, significant
from gradtool.core.judging.baseline import NormRange
from gradtool.core.judging.limits import Limits, limit
from gradtool.core.judging.quotient import Known, explained, times
from gradtool.core.judging.rule import LARGEST_FLOAT, Parameter
from gradtool.core.measurement import TensorMeasurement
from gradtool.core.names import name_filter, nearest_names
from gradtool.core.shapes.rows import Rows
from gradtool.core.stats import TensorStats, merge
from gradtool.rules.balance import NEGLIGIBLE
from gradtool.rules.evidence import DumpRule, Evidence, Problem
from gradtool.shortening import LONGEST_NAME, shortened

EXPECTED, TOTAL_DRIFT, TENSOR_DRIFT, ZERO = "GT401", "GT402", "GT403", "GT410"


def _expected(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    expected, rtol = limit(limits.dump, "norm"), limit(limits.dump, "rtol")
    norm = evidence.summary.norm
    if expected is None or rtol is None or evidence.is_reported(norm):
        return
    if not evidence.gradients:
        if evidence.has_only_state:  # for no tensors at all there is GT002
            yield Problem(f"holds no gradients, of a norm of {short(expected)}", limit=rtol)
        return
    if not NormRange(expected, expected).factor(norm) <= 1.0 + rtol:  # true of NaN too
        message = f"the total norm, {precise(norm)}, is not the expected {short(expected)}"
        message = f"{message} within {short(rtol)} of it"
        if expected and 0.0 < norm < math.inf:
            explanation = explained(norm / expected, _known(evidence, evidence.summary.stats.numel))
            message += f"; {_with(f'{times(norm / expected)} the expected', explanation)}"
        yield Problem(message, value=norm, limit=rtol)


def _not_zero(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    # Of a checkpoint of weights alone these are meant: an embedding's padding row is 0 in both.
    tensors = evidence.named_gradients or evidence.measurement.tensors
    names = limits.dump["names"]
    for text in names if isinstance(names, tuple) else ():
        rows = Rows.read(text)
        is_meant = name_filter([rows.glob], (), evidence.bare)
        meant = [tensor for tensor in tensors if is_meant(tensor.name)]
        if not meant:
            hint = nearest_names(rows.glob, (tensor.name for tensor in tensors))
            also = f"; {hint}" if hint else ""
            named = shortened(repr(rows.glob), LONGEST_NAME)
            yield Problem(f"is expected to be 0, and no tensor is called {named}{also}", text)
        for tensor, _ in limits.each(meant):
            stats = _stats_of(tensor, rows)
            if others := stats.numel - stats.zeros:
                which = f"{_row_words(rows.of(tensor.spec.shape))} " if rows.is_indexed else ""
                verb = "is" if others == 1 else "are"
                yield Problem(
                    f"{which}must be 0, and {others:,} of {counted(stats.numel, 'element')} {verb} "
                    f"not: the norm is {precise(stats.norm)}",
                    tensor.name,
                    value=stats.norm,
                    limit=0.0,
                )


def _stats_of(tensor: TensorMeasurement, rows: Rows) -> TensorStats:
    """The statistics of some rows of a tensor, or of the whole one."""
    found = rows.of(tensor.spec.shape)
    if not rows.is_indexed or found is None:
        return tensor.stats
    parts = [one.stats for one in tensor.rows if one.start in found]
    return merge(parts, tensor.stats.norm_type)


def _row_words(rows: range | None) -> str:
    """`row 0`, `rows 2 to 5`."""
    if rows is None:
        return ""
    return f"row {rows[0]}" if len(rows) == 1 else f"rows {rows[0]} to {rows[-1]}"


def _total_drift(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    if evidence.lacks_baseline_tensors:
        return  # which the verdict notes
    if evidence.baseline is not None and evidence.baseline_fits:
        max_factor = limit(limits.dump, "max_factor")
        summary = evidence.summary
        yield from _drift(
            evidence, summary.norm, evidence.baseline.total, max_factor, summary.stats.numel
        )


def _tensor_drift(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    baseline = evidence.baseline
    if baseline is None:
        return
    negligible = NEGLIGIBLE * evidence.summary.finite_norm
    negligible_before = NEGLIGIBLE * baseline.total.high
    problems: list[Problem] = []
    for tensor, thresholds in limits.each(evidence.gradients):
        old = baseline.tensors.get(tensor.name)
        if old is None or old.shape != tensor.spec.shape:
            continue
        if tensor.norm < negligible and old.norm.high < negligible_before:
            continue
        if old.norm.high == 0.0:
            continue  # any norm is infinitely far from 0
        max_factor = limit(thresholds, "max_factor")
        numel = tensor.stats.numel
        problems.extend(_drift(evidence, tensor.norm, old.norm, max_factor, numel, tensor.name))
    yield from sorted(problems, key=_furthest_first)


def _furthest_first(problem: Problem) -> tuple[bool, float]:
    """A sort key: NaN comes before norms that became 0, and these before all others."""
    factor = math.nan if problem.value is None else problem.value
    return (False, 0.0) if math.isnan(factor) else (True, -factor)


def _drift(
    evidence: Evidence,
    norm: float,
    baseline: NormRange,
    max_factor: float | None,
    numel: int,
    tensor: str | None = None,
) -> Iterator[Problem]:
    """A problem if `norm` is too far outside the baseline's range, as NaN always is."""
    factor = baseline.factor(norm)
    if max_factor is None or factor <= max_factor or evidence.is_reported(norm):
        return
    expected = precise(baseline.low)
    if baseline.low != baseline.high:
        expected += f" to {precise(baseline.high)}"
    distance = (
        f", {_distance(norm, baseline, _known(evidence, numel))}" if math.isfinite(factor) else ""
    )
    subject = f"{'its' if tensor else 'the total'} norm, {precise(norm)}, is not the baseline's"
    yield Problem(f"{subject} {expected}{distance}", tensor, value=factor, limit=max_factor)


def _distance(norm: float, baseline: NormRange, known: Known) -> str:
    """How far a norm is outside the range, as `0.12% off` or `8 times it: 8, the number of ranks?`.

    The ends of a range are no norms that a quotient could explain.
    """
    nearest = baseline.low if norm < baseline.low else baseline.high
    quotient = norm / nearest
    explanation = explained(quotient, known) if baseline.low == baseline.high else None
    if explanation is None and (factor := baseline.factor(norm)) < 2.0:
        return f"{significant(100.0 * (factor - 1.0), 3)}% off"
    end = "the largest" if norm > nearest else "the smallest"
    what = "it" if baseline.low == baseline.high else end
    return _with(f"{times(quotient)} {what}", explanation)


def _with(quotient: str, explanation: str | None) -> str:
    return quotient if explanation is None else f"{quotient}: {explanation}"


def _known(evidence: Evidence, numel: int) -> Known:
    """What is known of a dump that may explain a quotient of norms over `numel` elements."""
    measurement = evidence.measurement
    return Known(
        numel=numel,
        ranks=max((number for _, number in measurement.ranks), default=None),
        loss_scale=None if measurement.loss_scale == 1.0 else measurement.loss_scale,
    )


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
        rationale=(
            "rtol is 1e-3: the same step on another machine or in another order of sums differs "
            "less in float32; bfloat16 may need 1e-2."
        ),
        remedy="Look at what changed: seed, data, versions, precision, parallelism.",
        parameters=(
            Parameter("norm", None, "the total norm", high=LARGEST_FLOAT),
            Parameter(
                "rtol", 1e-3, "largest difference, relative to the smaller one", high=LARGEST_FLOAT
            ),
        ),
    ),
    DumpRule(
        code=TOTAL_DRIFT,
        name="total-drift",
        needs_baseline=True,
        find=_total_drift,
        summary="The total norm is far from the baseline's.",
        explanation=(
            "The norm of all gradients is outside the range that the baseline's dumps had. "
            "A tenth is as far off as ten times."
        ),
        rationale=(
            "max_factor is 10. Between seeds and steps of a healthy small transformer total norms "
            "differed by up to 3; for runs that are to be reproduced `rtol=1e-3` says 1.001."
        ),
        remedy=("See GT403 for the tensors. If the change is meant, `gradtool baseline update`."),
        parameters=(Parameter("max_factor", 10.0, _FACTOR_MEANING, low=1.0),),
    ),
    DumpRule(
        code=TENSOR_DRIFT,
        name="tensor-drift",
        needs_baseline=True,
        per_tensor=True,
        find=_tensor_drift,
        alike="far from the baseline",
        summary="A tensor's norm is far from the baseline's.",
        explanation=(
            "The same as GT402, for one tensor. Left out are those below 1e-5 of the total norm "
            "both in the dump and in the baseline, and those that were 0 in the baseline."
        ),
        rationale=(
            "max_factor is 30. Over 6 seeds of a healthy small transformer norms of one tensor "
            "left the range of another seed's run by a factor of at most 4.5; a learning rate 100 "
            "times too high and a layer scaled by 1e4 took some tensor out by more than 130. Make "
            "the baseline of several steps: from a single dump others of the same run differ by "
            "15 there, and by 700 in other models."
        ),
        remedy="Look at that layer. If the change is meant, `gradtool baseline update`.",
        parameters=(Parameter("max_factor", 30.0, _FACTOR_MEANING, low=1.0),),
    ),
    DumpRule(
        code=ZERO,
        name="not-zero",
        per_tensor=True,
        find=_not_zero,
        summary="What must be 0 is not.",
        explanation=(
            "Gradients that are known to be 0 are not: those of an embedding's padding row, of "
            "masked or frozen rows. It is in force where names are given, as "
            "`GT410.names=embedding.weight[0]`. A final [i] or [i:j] is a row or several, from the "
            "end where negative; what stands before it is a glob. -0.0 is 0, NaN is not."
        ),
        rationale="None: what must be 0 is exactly 0, or something adds to it.",
        remedy=(
            "Look for a missing padding_idx or mask, for weight decay that is added to gradients, "
            "for rows that are frozen only after backward()."
        ),
        parameters=(Parameter("names", (), "what must be 0: globs with an index", kind="names"),),
    ),
)
