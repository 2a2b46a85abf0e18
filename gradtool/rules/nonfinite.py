"""GT1xx: NaN and infinities."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby

from gradtool.core.figures import counted, index_text, nonfinite_counts
from gradtool.core.judging.limits import Limits
from gradtool.core.judging.rule import Parameter, Rule, Thresholds
from gradtool.core.judging.series import series_among
from gradtool.core.judging.verdict import Verdict
from gradtool.core.measurement import TensorMeasurement
from gradtool.core.order.frontier import of_all
from gradtool.core.stats import TensorStats
from gradtool.rules.evidence import DumpRule, Evidence, Problem


def _nan(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    for tensor, _ in limits.each(one for one in evidence.gradients if one.stats.nan):
        nan = tensor.stats.nan
        yield _problem(evidence, tensor, nan, [f"{nan:,} NaN"])


def _inf(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    infinite = (one for one in evidence.gradients if one.stats.posinf or one.stats.neginf)
    for tensor, _ in limits.each(infinite):
        signs = nonfinite_counts(replace(tensor.stats, nan=0))
        yield _problem(evidence, tensor, tensor.stats.posinf + tensor.stats.neginf, signs)


def _is_mask(stats: TensorStats) -> bool:
    """Whether all elements are 0 or -Inf, as in a mask that is added before a softmax."""
    return stats.zeros > 0 and stats.zeros + stats.neginf == stats.numel


def _state(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    kinds = {section.name: section.kind for section in evidence.measurement.sections}
    for tensor, _ in limits.each(evidence.state):
        stats = tensor.stats
        if stats.nonfinite and not (kinds[tensor.spec.section] == "weights" and _is_mask(stats)):
            yield _problem(evidence, tensor, stats.nonfinite, nonfinite_counts(stats))


def _problem(
    evidence: Evidence, tensor: TensorMeasurement, count: int, kinds: Sequence[str]
) -> Problem:
    index = tensor.first_nonfinite
    among = counted(tensor.stats.numel, "element")
    first = f", first at {index_text(index)}" if index else ""
    near = evidence.frontiers[tensor.spec.section].near(tensor)
    message = f"{' and '.join(kinds)} among {among}{first}; {near}"
    is_whole = count == tensor.stats.numel
    return Problem(message, tensor.name, index, float(count), limit=0.0, is_whole=is_whole)


def _is_one_run(evidence: Evidence, names: Collection[str]) -> bool:
    """Whether they lie between two finite ones, or layers: backward spreads what is not finite."""
    sections = {evidence.by_name[name].spec.section for name in names}
    return len(sections) == 1 and all(evidence.frontiers[section].is_one for section in sections)


def _ending(evidence: Evidence, problems: Sequence[Problem]) -> str:
    """Where to look: at the edge of what is finite, or at the loss where nothing is."""
    if len(problems) == len(evidence.gradients):
        return f": {of_all(evidence.gradients)}"
    sections = {evidence.by_name[one.tensor].spec.section for one in problems if one.tensor}
    frontiers = [evidence.frontiers[section].text for section in sorted(sections)]
    return f"; in {evidence.measurement.order}: {'; '.join(frontiers)}"


@dataclass(frozen=True, slots=True)
class Streak:
    """Consecutive steps of one series that are not finite.

    Attributes:
        series: what the paths of the series have in common; "" where nothing is.
        positions: of the verdicts on them, in the order of steps.
        steps: how many they are.
        too_long: whether they are more than the threshold allows.
    """

    series: str
    positions: tuple[int, ...]
    steps: int
    too_long: bool


def streaks(verdicts: Sequence[Verdict], thresholds: Thresholds) -> Iterator[Streak]:
    """The streaks of non-finite steps in each series among `verdicts`.

    A dump that could not be read neither counts as a step nor ends a streak.
    """
    most = thresholds["max_consecutive"]

    def is_bad(step: tuple[int, ...]) -> bool:
        return any(verdicts[position].has_nonfinite for position in step)

    for series in series_among(verdicts):
        for bad, run in groupby(series.steps, is_bad):
            if bad:
                steps = list(run)
                too_long = isinstance(most, int) and len(steps) > most
                yield Streak(series.name, tuple(chain.from_iterable(steps)), len(steps), too_long)


STREAK = Rule(
    code="GT103",
    name="nonfinite-streak",
    across_dumps=True,
    summary="Too many steps in a row are not finite.",
    explanation=(
        "With dynamic loss scaling a step now and then overflows: the scaler skips it and halves "
        "the scale, and the next is finite. A streak means that the scale falls without end or "
        "that the weights are broken. With max_consecutive N of at least 1, steps that are not "
        "finite are warnings in streaks of up to N, and errors in longer ones; with 0 every "
        "single one is what GT101 and GT102 say it is. Steps are in a row within one series of "
        "dumps, whose paths differ in the step only: other files and other runs beside it, and "
        "a copy such as latest.pt, count for themselves."
    ),
    rationale=(
        "max_consecutive is 0 unless set: without loss scaling no step may be non-finite. With "
        "torch's GradScaler 1 or 2 are normal."
    ),
    remedy="Look at the first step of the streak, and there at what GT101 and GT102 name.",
    parameters=(
        Parameter(
            "max_consecutive", 0, "non-finite steps in a row that are no errors", kind="count"
        ),
    ),
)

RULES = (
    DumpRule(
        code="GT101",
        name="nan",
        per_tensor=True,
        find=_nan,
        alike="NaN",
        ending=_ending,
        is_one_fault=_is_one_run,
        summary="A tensor holds NaN.",
        explanation=(
            "One NaN makes the total norm NaN, and clipping by it makes every gradient NaN. It "
            "comes from 0/0, Inf-Inf or 0*Inf: a square root or norm at 0, a softmax over "
            "nothing but -Inf, a division by a count of zero, or an overflow elsewhere."
        ),
        rationale="None: no NaN is fine. See GT103 for single steps with loss scaling.",
        remedy=(
            "Backward runs from the last layer to the first: look between the tensors that are "
            "named and the finite ones next to them; torch.autograd.set_detect_anomaly(True) "
            "finds the operation."
        ),
    ),
    DumpRule(
        code="GT102",
        name="inf",
        per_tensor=True,
        find=_inf,
        alike="infinite",
        ending=_ending,
        is_one_fault=_is_one_run,
        summary="A tensor holds infinities.",
        explanation=(
            "An element is beyond its dtype, or a division by zero took place. Clipping by an "
            "infinite norm makes these elements NaN and all others 0."
        ),
        rationale="None: no Inf is fine. See GT103 for single steps with loss scaling.",
        remedy=(
            "In float16 lower the loss scale, or use bfloat16; in float32 look for a division or "
            "a logarithm at 0 near the named tensor."
        ),
    ),
    STREAK,
    DumpRule(
        code="GT104",
        name="broken-state",
        per_tensor=True,
        find=_state,
        alike="not finite",
        summary="Weights or optimizer state beside the gradients are not finite.",
        explanation=(
            "Such a run does not recover: whatever is computed from these weights is NaN too. "
            "Sections of a checkpoint that hold no gradients are judged by this alone. Weights "
            "of nothing but 0 and -Inf, as masks are, are left out."
        ),
        rationale="None. A streak of steps, GT103, excuses no such thing.",
        remedy="Go back to a checkpoint before; look there at what GT101 and GT102 find.",
    ),
)
