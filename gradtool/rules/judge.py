"""Evidence and a policy give a verdict; verdicts give one over all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gradtool.core.judging.policy import InForce, Policy
from gradtool.core.judging.rule import SEVERITIES, Thresholds
from gradtool.core.judging.verdict import Finding, Verdict
from gradtool.errors import GradtoolError, InputError
from gradtool.rules import RULES
from gradtool.rules.drift import TOTAL_DRIFT
from gradtool.rules.evidence import DumpRule, Evidence, Limits, Trouble
from gradtool.rules.nonfinite import RULES as NONFINITE_RULES
from gradtool.rules.nonfinite import STREAK, Streak, streaks

_NONFINITE = frozenset(rule.code for rule in NONFINITE_RULES)
_OF_A_STEP = frozenset({"GT101", "GT102"})
"""What a step may be skipped for; broken weights stay broken."""

_UNREADABLE = 3


def judge(evidence: Evidence, policy: Policy) -> tuple[Finding, ...]:
    """Everything that the rules in force find in a dump, the gravest first.

    What is not finite is judged before any norm is compared: once it is told, a norm that is not
    finite for that reason is told nothing of; otherwise it is out of any bounds.
    """
    if policy.overrides:  # which fit a tensor whatever rules are in force
        for names in evidence.names.values():
            policy.override(*names)
    first = [one for one in policy.rules.values() if one.rule.code in _NONFINITE]
    found = [finding for rule in first for finding in _apply(rule, evidence, policy)]
    told = any(finding.code in _OF_A_STEP for finding in found)
    evidence = replace(evidence, nonfinite_told=told)
    for rule in policy.rules.values():
        if rule.rule.code not in _NONFINITE:
            found.extend(_apply(rule, evidence, policy))
    return _gravest_first(found)


def _apply(in_force: InForce, evidence: Evidence, policy: Policy) -> Iterator[Finding]:
    rule = in_force.rule
    if isinstance(rule, DumpRule) and rule.find is not None:

        def of_tensor(name: str) -> Thresholds | None:
            return policy.thresholds(rule.code, *evidence.names.get(name, [name]))

        limits = Limits(in_force.thresholds, of_tensor)
        for trouble in rule.find(evidence, limits):
            yield _finding(in_force, trouble)


def _finding(in_force: InForce, trouble: Trouble) -> Finding:
    return Finding(
        code=in_force.rule.code,
        name=in_force.rule.name,
        severity=in_force.severity,
        message=trouble.message,
        tensor=trouble.tensor,
        index=trouble.index,
        value=trouble.value,
        limit=trouble.limit,
    )


def _gravest_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda one: (SEVERITIES.index(one.severity), one.code)))


def verdict_on(evidence: Evidence, policy: Policy, step: int | None, elapsed_s: float) -> Verdict:
    """The verdict on a measured dump."""
    measurement = evidence.measurement
    return _settled(
        Verdict(
            path=measurement.path,
            step=step,
            format=measurement.format,
            summary=evidence.summary if evidence.gradients else None,
            findings=judge(evidence, policy),
            notes=(*measurement.notes, *_not_judged(evidence, policy)),
            failed=False,
            exit_code=0,
            elapsed_s=elapsed_s,
        ),
        policy,
    )


def _not_judged(evidence: Evidence, policy: Policy) -> Iterator[str]:
    if evidence.is_part_of_baseline and TOTAL_DRIFT in policy.rules:
        yield (
            f"{TOTAL_DRIFT} did not judge: filters leave out tensors of which the baseline has "
            "the total norm"
        )


def verdict_on_unreadable(
    path: str, error: GradtoolError, step: int | None, elapsed_s: float
) -> Verdict:
    """The verdict on what could not be measured: the error is the finding."""
    # The last rule that knows the error knows it best: the first of them knows all.
    rule = [
        one for one in RULES.values() if isinstance(one, DumpRule) and isinstance(error, one.errors)
    ][-1]
    problem = error.problem if isinstance(error, InputError) else str(error.args[0])
    problem = problem.removeprefix(f"{path}: ")
    message = f"{problem}; {error.hint}" if error.hint else problem
    finding = Finding(rule.code, rule.name, "error", message)
    if isinstance(error, InputError):
        finding = replace(finding, tensor=error.tensor, file=error.path, byte=error.byte)
    return Verdict(path, step, None, None, (finding,), (), True, error.exit_code, elapsed_s)


def _settled(verdict: Verdict, policy: Policy) -> Verdict:
    """The verdict with what follows from its findings."""
    failed = any(policy.fails(finding.severity) for finding in verdict.findings)
    unreadable = any(RULES[finding.code].always for finding in verdict.findings)
    exit_code = _UNREADABLE if unreadable else 1 if failed else 0
    return replace(verdict, failed=failed, exit_code=exit_code)


def judge_together(
    verdicts: Sequence[Verdict], policy: Policy
) -> tuple[tuple[Verdict, ...], tuple[Finding, ...]]:
    """Verdicts, which are in the order of steps, in view of each other.

    Findings of NaN and Inf become warnings in streaks that are not too long; longer ones are
    findings about all together.
    """
    in_force = policy.rules.get(STREAK.code)
    settled = list(verdicts)
    if in_force is None or not in_force.thresholds["max_consecutive"]:
        return tuple(settled), ()
    findings = []
    for streak in streaks(settled, in_force.thresholds):
        if streak.too_long:
            findings.append(_finding(in_force, _told(streak, settled, in_force)))
        else:
            for at in streak.verdicts:
                if settled[at].summary is not None:
                    settled[at] = _settled(_excused(settled[at]), policy)
    return tuple(settled), tuple(findings)


def _excused(verdict: Verdict) -> Verdict:
    findings = [
        replace(one, severity="warning") if one.code in _OF_A_STEP else one
        for one in verdict.findings
    ]
    return replace(verdict, findings=_gravest_first(findings))


def _told(streak: Streak, verdicts: Sequence[Verdict], in_force: InForce) -> Trouble:
    most = in_force.thresholds["max_consecutive"]
    first, last = verdicts[streak.verdicts[0]], verdicts[streak.verdicts[-1]]
    return Trouble(
        f"{streak.steps} steps in a row are not finite, from {_place(first)} to {_place(last)}; "
        f"at most {most} are fine",
        value=float(streak.steps),
        limit=float(most) if isinstance(most, int) else None,
    )


def _place(verdict: Verdict) -> str:
    return verdict.path if verdict.step is None else f"step {verdict.step} ({verdict.path})"
