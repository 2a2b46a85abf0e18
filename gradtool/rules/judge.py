"""Evidence and a policy give a verdict; verdicts give one over all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gradtool.core.judging.policy import InForce, Override, Policy
from gradtool.core.judging.rule import SEVERITIES, Thresholds
from gradtool.core.judging.verdict import Finding, Verdict
from gradtool.errors import GradtoolError, InputError
from gradtool.rules import RULES
from gradtool.rules.drift import TOTAL_DRIFT
from gradtool.rules.evidence import DumpRule, Evidence, Limits, Problem
from gradtool.rules.nonfinite import RULES as NONFINITE_RULES
from gradtool.rules.nonfinite import STREAK, Streak, streaks

_NONFINITE = frozenset(rule.code for rule in NONFINITE_RULES)
_OF_A_STEP = frozenset({"GT101", "GT102"})
"""What a step may be skipped for; broken weights stay broken."""

_UNREADABLE = 3


class Judge:
    """A policy at work on the dumps of one call, which remembers what overrides counted for."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._known: dict[tuple[str, ...], Override | None] = {}

    @property
    def idle_overrides(self) -> tuple[Override, ...]:
        """Those that counted for no tensor of any dump so far."""
        used = [id(override) for override in self._known.values()]
        return tuple(one for one in self.policy.overrides if id(one) not in used)

    def findings(self, evidence: Evidence) -> tuple[Finding, ...]:
        """Everything that the rules in force find in a dump, the gravest first.

        What is not finite is judged before any norm is compared: where it is a finding, a norm
        that is not finite for that reason is none; otherwise it is out of any bounds.
        """
        if self.policy.overrides:  # which fit a tensor whatever rules are in force
            for names in evidence.names.values():
                self._override(names)
        rules = self.policy.rules.values()
        first = [one for one in rules if one.rule.code in _NONFINITE]
        findings = [finding for rule in first for finding in self._apply(rule, evidence)]
        reported = any(finding.code in _OF_A_STEP for finding in findings)
        evidence = replace(evidence, nonfinite_reported=reported)
        for rule in rules:
            if rule.rule.code not in _NONFINITE:
                findings.extend(self._apply(rule, evidence))
        return _gravest_first(findings)

    def verdict(self, evidence: Evidence, step: int | None, elapsed_s: float) -> Verdict:
        """The verdict on a measured dump."""
        measurement = evidence.measurement
        return _concluded(
            Verdict(
                path=measurement.path,
                step=step,
                format=measurement.format,
                summary=evidence.summary if evidence.gradients else None,
                findings=self.findings(evidence),
                notes=(*measurement.notes, *_not_judged(evidence, self.policy)),
                failed=False,
                exit_code=0,
                elapsed_s=elapsed_s,
            ),
            self.policy,
        )

    def _apply(self, in_force: InForce, evidence: Evidence) -> Iterator[Finding]:
        rule = in_force.rule
        if isinstance(rule, DumpRule) and rule.find is not None:

            def of_tensor(name: str) -> Thresholds | None:
                override = self._override(evidence.names.get(name, [name]))
                return self.policy.thresholds_with(override, rule.code)

            limits = Limits(in_force.thresholds, of_tensor)
            for problem in rule.find(evidence, limits):
                yield _finding(in_force, problem)

    def _override(self, names: Sequence[str]) -> Override | None:
        if not self.policy.overrides:
            return None
        key = tuple(names)
        if key not in self._known:  # every rule asks, of every tensor of every dump
            self._known[key] = self.policy.override(key)
        return self._known[key]


def _finding(in_force: InForce, problem: Problem) -> Finding:
    return Finding(
        code=in_force.rule.code,
        name=in_force.rule.name,
        severity=in_force.severity,
        message=problem.message,
        tensor=problem.tensor,
        index=problem.index,
        value=problem.value,
        limit=problem.limit,
    )


def _gravest_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda one: (SEVERITIES.index(one.severity), one.code)))


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


def _concluded(verdict: Verdict, policy: Policy) -> Verdict:
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
    judged = list(verdicts)
    if in_force is None or not in_force.thresholds["max_consecutive"]:
        return tuple(judged), ()
    findings = []
    for streak in streaks(judged, in_force.thresholds):
        if streak.too_long:
            findings.append(_finding(in_force, _too_long(streak, judged, in_force)))
        else:
            for at in streak.verdicts:
                if judged[at].summary is not None:
                    judged[at] = _concluded(_as_warnings(judged[at]), policy)
    return tuple(judged), tuple(findings)


def _as_warnings(verdict: Verdict) -> Verdict:
    findings = [
        replace(one, severity="warning") if one.code in _OF_A_STEP else one
        for one in verdict.findings
    ]
    return replace(verdict, findings=_gravest_first(findings))


def _too_long(streak: Streak, verdicts: Sequence[Verdict], in_force: InForce) -> Problem:
    most = in_force.thresholds["max_consecutive"]
    first, last = verdicts[streak.verdicts[0]], verdicts[streak.verdicts[-1]]
    return Problem(
        f"{streak.steps} steps in a row are not finite, from {_place(first)} to {_place(last)}; "
        f"at most {most} are fine",
        value=float(streak.steps),
        limit=float(most) if isinstance(most, int) else None,
    )


def _place(verdict: Verdict) -> str:
    return verdict.path if verdict.step is None else f"step {verdict.step} ({verdict.path})"
