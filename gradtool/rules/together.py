"""Judging the dumps of a run together: verdicts revised in view of each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gradtool.core.figures import first_of
from gradtool.core.file_names import series_of
from gradtool.core.judging.policy import ActiveRule, Policy
from gradtool.core.judging.series import series_among
from gradtool.core.judging.verdict import Finding, Verdict
from gradtool.rules.evidence import Problem
from gradtool.rules.judge import concluded, gravest_first
from gradtool.rules.layered.roll_up import finding_of
from gradtool.rules.nonfinite import STREAK, Streak, streaks
from gradtool.rules.spikes import spikes_of

_SKIPPABLE = frozenset({"GT101", "GT102"})
"""Rules for whose findings a trainer may skip the step; broken weights stay broken."""


def without_others(
    verdicts: Sequence[Verdict],
) -> tuple[tuple[Verdict, ...], str | None]:
    """The verdicts without dumps of what no rule judges, and a sentence that names these.

    As in a directory they lie beside others. A step without gradients is none of them where other
    steps of its series have some, nor are any if nothing else was judged.
    """
    series = {series_of(verdict.path) for verdict in verdicts if verdict.is_judged}

    def is_other(verdict: Verdict) -> bool:
        is_read = verdict.format is not None and not verdict.is_judged
        return is_read and series_of(verdict.path) not in series

    others = [verdict.path for verdict in verdicts if is_other(verdict)]
    if not series or not others:
        return tuple(verdicts), None
    hold = "it holds" if len(others) == 1 else "they hold"
    note = f"not judged, as {hold} no gradients, weights or moments: {first_of(others)}"
    return tuple(verdict for verdict in verdicts if not is_other(verdict)), note


def judge_together(
    verdicts: Sequence[Verdict], policy: Policy
) -> tuple[tuple[Verdict, ...], tuple[Finding, ...]]:
    """The verdicts of a run, revised in view of each other, and findings about several dumps.

    NaN and Inf become warnings in streaks of non-finite steps of one series that are not too long;
    a longer streak is a finding. A step whose norm is far above those around it has a finding.
    """
    judged = list(verdicts)
    findings = tuple(_judge_streaks(judged, policy))
    for series in series_among(verdicts):
        for position, active, problem in spikes_of(series, verdicts, policy):
            verdict = judged[position]
            found = gravest_first((*verdict.findings, finding_of(active, problem)))
            judged[position] = concluded(replace(verdict, findings=found), policy)
    return tuple(judged), findings


def _judge_streaks(judged: list[Verdict], policy: Policy) -> Iterator[Finding]:
    """Revise the verdicts on steps in streaks; a finding for each that is too long."""
    active = policy.rules.get(STREAK.code)
    if active is None or not active.thresholds["max_consecutive"]:
        return
    for streak in streaks(judged, active.thresholds):
        if streak.too_long:
            yield finding_of(active, _too_long(streak, judged, active))
            continue
        for index in streak.positions:
            judged[index] = concluded(_as_warnings(judged[index]), policy)


def _as_warnings(verdict: Verdict) -> Verdict:
    findings = [
        _as_warning(finding) if finding.code in _SKIPPABLE else finding
        for finding in verdict.findings
    ]
    return replace(verdict, findings=gravest_first(findings))


def _as_warning(finding: Finding) -> Finding:
    return replace(finding, severity="warning", details=tuple(map(_as_warning, finding.details)))


def _too_long(streak: Streak, verdicts: Sequence[Verdict], active: ActiveRule) -> Problem:
    most = active.thresholds["max_consecutive"]
    first, last = verdicts[streak.positions[0]], verdicts[streak.positions[-1]]
    of = f" of {streak.series}" if streak.series else ""
    return Problem(
        f"{streak.steps} steps in a row{of} are not finite, from {_place(first)} to "
        f"{_place(last)}; at most {most} are fine",
        value=float(streak.steps),
        limit=float(most) if isinstance(most, int) else None,
    )


def _place(verdict: Verdict) -> str:
    return verdict.path if verdict.step is None else f"step {verdict.step} ({verdict.path})"
