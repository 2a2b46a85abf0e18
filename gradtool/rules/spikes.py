"""GT210, GT212 and GT213: steps of a run whose norm is far above those around them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from gradtool.core.figures import counted, significant
from gradtool.core.judging.levels import Level, Levels, levels_among
from gradtool.core.judging.limits import limit
from gradtool.core.judging.policy import ActiveRule, Policy
from gradtool.core.judging.quotient import plain, times
from gradtool.core.judging.rule import LARGEST_FLOAT, Parameter, Rule, Thresholds
from gradtool.core.judging.series import Series
from gradtool.core.judging.spikes import FORGOTTEN, Spike, above_median, above_running_mean
from gradtool.core.judging.verdict import Verdict
from gradtool.core.judging.weights import HEAVIEST, Weight, makers, percent
from gradtool.rules.evidence import Problem
from gradtool.shortening import LONGEST_NAME, shortened


class _Step(NamedTuple):
    """A step that has a norm: the verdict with the largest, and its position among all."""

    position: int
    verdict: Verdict
    norm: float


def spikes_of(
    series: Series, verdicts: Sequence[Verdict], policy: Policy
) -> Iterator[tuple[int, ActiveRule, Problem]]:
    """The steps of one series that stand out: positions of verdicts, rules, and what is wrong.

    Dumps of which nothing tells a step are no run. Steps that are not finite, of norm 0 or not
    read are as if they were not there.
    """
    steps = list(_with_norms(series, verdicts)) if series.name else []
    norms = [step.norm for step in steps]
    grave, raised = policy.rules.get(SPIKE.code), policy.rules.get(RAISED.code)
    spikes = {} if grave is None else _spikes(norms, grave.thresholds)
    found = [(grave, spike) for spike in spikes.values()]
    others = {} if raised is None else _raised(norms, raised.thresholds, spikes)
    found += [(raised, spike) for at, spike in others.items() if at not in spikes]
    levels = _levels(norms, found, policy)
    for level in levels.levels:
        told = policy.rules[LEVEL.code]
        yield steps[level.told].position, told, _rise(steps, level)
    for active, spike in found:
        if active is not None and spike.position not in levels.settled:
            step = steps[spike.position]
            ordinary = _ordinary(steps, spike.position, spikes.keys() | others.keys())
            yield step.position, active, _problem(step, spike, ordinary, active.thresholds)


def norms_needed(policy: Policy) -> int:
    """How many norms before a step, and after one of the first, decide what is found of it."""
    active = policy.rules.get(SPIKE.code)
    window = 0.0 if active is None else limit(active.thresholds, "window") or 0.0
    return int(window) + FORGOTTEN


def has_norm(verdict: Verdict) -> bool:
    """Whether a step is one of those that norms are compared of."""
    return _norm(verdict) > 0.0 and not verdict.has_nonfinite


def _with_norms(series: Series, verdicts: Sequence[Verdict]) -> Iterator[_Step]:
    """The steps with a norm whose logarithm there is; of parts of one step the largest counts."""
    for positions in series.steps:
        norms = [(_norm(verdicts[position]), position) for position in positions]
        norm, position = max(norms)
        if norm > 0.0 and not any(verdicts[position].has_nonfinite for position in positions):
            yield _Step(position, verdicts[position], norm)


def _norm(verdict: Verdict) -> float:
    """A norm that is a length and finite; 0 for any other."""
    total = verdict.summary
    if total is None or total.stats.norm_type <= 0.0 or not math.isfinite(total.norm):
        return 0.0
    return total.norm


def _spikes(norms: Sequence[float], thresholds: Thresholds) -> dict[int, Spike]:
    factor, max_z = limit(thresholds, "factor"), limit(thresholds, "max_z")
    min_spread, window = limit(thresholds, "min_spread"), limit(thresholds, "window")
    if factor is None or max_z is None or min_spread is None or window is None:
        return {}
    if len(norms) < (limit(thresholds, "min_steps") or 0.0):
        return {}
    found = above_median(
        norms, window=int(window), factor=factor, max_z=max_z, min_spread=min_spread
    )
    return {spike.position: spike for spike in found}


def _raised(
    norms: Sequence[float], thresholds: Thresholds, spikes: Mapping[int, Spike]
) -> dict[int, Spike]:
    factor, max_z = limit(thresholds, "factor"), limit(thresholds, "max_z")
    if factor is None or max_z is None:
        return {}
    found = above_running_mean(norms, max_z=max_z, factor=factor, left_out=frozenset(spikes))
    return {spike.position: spike for spike in found}


def _levels(
    norms: Sequence[float], found: Sequence[tuple[ActiveRule | None, Spike]], policy: Policy
) -> Levels:
    """The levels that rose and stay; none where no rule in force tells of them."""
    active = policy.rules.get(LEVEL.code)
    if active is None:
        return Levels()
    pairs = [
        (spike, factor)
        for rule, spike in sorted(found, key=lambda pair: pair[1].position)
        if rule is not None and (factor := limit(rule.thresholds, "factor")) is not None
    ]
    return levels_among(norms, pairs, int(limit(active.thresholds, "steps") or 0))


def _rise(steps: Sequence[_Step], level: Level) -> Problem:
    first = steps[level.first].verdict
    since = first.path if first.step is None else f"step {first.step}"
    about, usual = plain(float(f"{level.times:.2g}")), significant(level.usual, 5)
    said = f"since {shortened(since, LONGEST_NAME)} the norm is about {about} times what it was"
    return Problem(f"{said}, {usual}", value=level.times)


def _ordinary(steps: Sequence[_Step], position: int, found: set[int]) -> Verdict | None:
    """The last step before it, else the first after it, that is no spike."""
    near = (*range(position - 1, -1, -1), *range(position + 1, len(steps)))
    return next((steps[at].verdict for at in near if at not in found), None)


def _problem(
    step: _Step, spike: Spike, ordinary: Verdict | None, thresholds: Thresholds
) -> Problem:
    average = "the running mean"
    if spike.among is not None:
        average = f"the median of {counted(spike.among, 'step')} around it"
    norm, usual = (significant(figure, 5) for figure in (step.norm, spike.usual))
    said = f"the total norm, {norm}, which is {times(spike.times)} {average}, {usual}"
    tensors = makers(step.verdict.heaviest)
    name = tensors[0].name if tensors else None
    if tensors and tensors[0].share is not None:
        first, *others = tensors
        also = [
            f"and {shortened(repr(other.name), LONGEST_NAME)} {percent(other.share or 0.0)}"
            for other in others
        ]
        parts = [f"makes up {_shares(first, ordinary)}", *also]
        said = f"{', '.join(parts)}{',' * bool(also)} of {said}"
    elif tensors:
        said = f"weighs most in {said}"
    said += f" (z {spike.z:.1f})"
    return Problem(said, name, value=spike.times, limit=limit(thresholds, "factor"))


def _shares(weight: Weight, ordinary: Verdict | None) -> str:
    """The share of a tensor, and in a step that is no spike: whether all rose, or that alone."""
    said = percent(weight.share or 0.0)
    if ordinary is None or not ordinary.heaviest:
        return said
    known = {one.name: one.share for one in ordinary.heaviest}.get(weight.name)
    least = ordinary.heaviest[-1].share if len(ordinary.heaviest) == HEAVIEST else 0.0
    share = least if known is None else known
    if share is None:
        return said
    bound = "at most " if known is None and share else ""
    where = ordinary.path if ordinary.step is None else f"step {ordinary.step}"
    return f"{said} ({bound}{percent(share)} in {shortened(where, LONGEST_NAME)})"


SPIKE = Rule(
    code="GT210",
    name="spike",
    across_dumps=True,
    marks_dumps=True,
    summary="The norm of a step is far above those of the steps around it.",
    explanation=(
        "One such step can undo hundreds: where clipping shortens it, it still points where it "
        "should not. Steps are compared within one series of dumps, whose paths differ in the step "
        "only, with the median of the window before them. The first ones are compared with that of "
        "the first window + 1 steps, and with that of the steps before them too, since norms fall "
        "when training begins; the very first is never found. A level that rises and stays is "
        "told by GT213 once, and its further steps are not found. The z-score is that of the "
        "logarithm, by the median absolute deviation of the steps that are no spikes; of a window "
        "of 50 or more each half has its own median there, so that a drift is no noise. Left out "
        "are steps that are not finite, of norm 0 or not read, norms of order 0 and below, and "
        "dumps of which nothing tells a step."
    ),
    rationale=(
        "factor is 3, max_z 5 and window 100. In 60 synthetic runs of 2,000 steps no step was "
        "found that should not be, and 97 % of single steps of 3 times the median, all of 5 times, "
        "when they were the newest; those missed are of noise with a deviation near 0.2, which 3 "
        "times are 5.5 deviations of. ZClip with its default called 12 of 1,000 steps a spike. Nor "
        "was any found in 40,000 steps of healthy training of a small GPT-2, a convolutional net, "
        "an LSTM and LoRA, where ZClip had 12 to 40 of 1,000; but 98 % or more of 3 times, of the "
        "convolutional net 5 %, and 88 % of 5 times: its noise has a deviation of 0.3. Where its "
        "loss falls to 0 that is 0.5: 6 of 10,000 steps were found, of 7 to 13 times the median, "
        "48 of 1,000 by ZClip, and 6 % of single steps of 5 times. A max_z of 4 finds 2 % more in "
        "synthetic runs, and there five times as many that are none. min_steps "
        "is 5: under noise of 20 % no run of 4 to 20 steps had a false one, of 50 % 1 to 3 in 100. "
        "min_spread keeps small changes of norms that are all but equal from counting as large."
    ),
    remedy=(
        "Look at the tensors that are named, with `gradtool inspect`, and at the batch of that "
        "step; clip, lengthen the warm-up, or leave the step out."
    ),
    parameters=(
        Parameter("factor", 3.0, "least factor to the median that is a spike", low=1.0),
        Parameter("max_z", 5.0, "largest robust z-score of the norm's logarithm"),
        Parameter(
            "min_spread",
            0.05,
            "least standard deviation of the logarithms",
            low=1e-6,
            high=LARGEST_FLOAT,
        ),
        Parameter("window", 100, "steps that the median is of", kind="count", low=2),
        Parameter("min_steps", 5, "least steps of a run that is judged", kind="count", low=3),
    ),
)

RAISED = Rule(
    code="GT212",
    name="raised-norm",
    severity="warning",
    across_dumps=True,
    marks_dumps=True,
    summary="The norm of a step is above the running mean by more than is usual.",
    explanation=(
        "It is the rule of ZClip (Kumar et al. 2025), which clips steps by running means of the "
        "norm and of its squared deviation, begun with those of 25 steps. It finds smaller spikes "
        "than GT210 does, and those of runs whose norm moves a lot; steps that GT210 finds are "
        "not told twice. What is left out there is left out here."
    ),
    rationale=(
        "max_z is 4 where ZClip has 2.5, and factor 2: so 0.03 of 1,000 steps of 60 synthetic runs "
        "were found, of healthy training of four architectures 0.4, of a net whose loss falls to "
        "0 22; and 99 % of single steps of 3 times the median. A warning, as a batch may well be "
        "twice as hard as others."
    ),
    remedy="See GT210; where it happens again and again, look at what these batches have alike.",
    parameters=(
        Parameter("factor", 2.0, "least factor to the running mean", low=1.0),
        Parameter("max_z", 4.0, "largest z-score of the norm, ZClip's z_thresh"),
    ),
)

LEVEL = Rule(
    code="GT213",
    name="raised-level",
    severity="warning",
    across_dumps=True,
    marks_dumps=True,
    summary="The norm has risen, and stays as high.",
    explanation=(
        "A step that GT210 or GT212 finds is of a level if the few steps before it have risen as "
        "well, and it does not stand out from them: half way to the factor of that rule, on a "
        "logarithmic scale, is the border of both. The first such step tells since when, and "
        "neither it nor the further ones are spikes. A step that stands out from the new level is "
        "one as before; so are the first steps of a level, of which nothing tells yet that it "
        "stays. Without this rule each of its steps is found until half of the window of GT210 is "
        "as high."
    ),
    rationale=(
        "steps is 5. In 60 synthetic runs none of 1,783 single steps of 3 to 5 times the median "
        "was taken for one of a level, with 3 to 10 for steps, nor was any of 3 times a new level; "
        "a level of 4 times the old one has 4.8 errors on average instead of 41."
    ),
    remedy=(
        "Look at what changed at that step: the data, the learning rate, the length of sequences, "
        "the number of accumulation steps or ranks. A quotient of 2, 4 or 8 is often one of these."
    ),
    parameters=(
        Parameter(
            "steps", 5, "steps that have risen before one is of a level", kind="count", low=2
        ),
    ),
)

RULES = (SPIKE, RAISED, LEVEL)
