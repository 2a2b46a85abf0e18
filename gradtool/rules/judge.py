"""Judging a dump by a policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from gradtool.core.figures import first_of, nonfinite_counts
from gradtool.core.judging.limits import Limits
from gradtool.core.judging.policy import ActiveRule, Override, Policy
from gradtool.core.judging.rule import SEVERITIES, Rule, Thresholds
from gradtool.core.judging.verdict import Finding, KindVerdict, Verdict
from gradtool.core.judging.weights import heaviest
from gradtool.errors import GradtoolError, InputError
from gradtool.rules import RULES
from gradtool.rules.baseline.drift import TOTAL_DRIFT
from gradtool.rules.evidence import DumpRule, Evidence, Problem
from gradtool.rules.layered.roll_up import rolled_up
from gradtool.rules.nonfinite import RULES as NONFINITE_RULES
from gradtool.shortening import LONGEST_NAME, shortened

_NONFINITE = frozenset(rule.code for rule in NONFINITE_RULES)
_SKIPPABLE = frozenset({"GT101", "GT102"})
"""Rules for whose findings a trainer may skip the step; broken weights stay broken."""

_UNREADABLE = 3
"""The exit code for a finding of a mandatory rule."""


class Judge:
    """Judges the dumps of one call by a policy, and keeps track of the overrides that count."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._override_by_names: dict[tuple[str, ...], Override | None] = {}

    @property
    def idle_overrides(self) -> tuple[Override, ...]:
        """The overrides that counted for no tensor of any dump so far."""
        used = [id(override) for override in self._override_by_names.values()]
        return tuple(override for override in self.policy.overrides if id(override) not in used)

    def findings(self, evidence: Evidence) -> tuple[Finding, ...]:
        """The findings of all rules in force about a dump, the gravest first.

        Rules about NaN and Inf come first. Where they find some, norms that are not finite for that
        reason are no findings of other rules; otherwise they are out of any bounds.
        """
        if self.policy.overrides:  # noted for tensors that no rule in force asks for
            for names in evidence.names.values():
                self._override(names)
        rules = self.policy.rules.values()
        first = [active for active in rules if active.rule.code in _NONFINITE]
        found = {active.rule.code: self._problems(active, evidence) for active in first}
        reported = any(found.get(code) for code in _SKIPPABLE)
        evidence = evidence.but(nonfinite_reported=reported)
        for active in rules:
            if active.rule.code not in _NONFINITE:
                found[active.rule.code] = self._problems(active, evidence)
        findings: list[Finding] = []
        for code in found:
            active = self.policy.rules[code]
            findings.extend(rolled_up(active, _left_to(active.rule, found), evidence))
        return gravest_first(findings)

    def verdict(self, evidence: Evidence, elapsed_s: float) -> Verdict:
        """The verdict on a measured dump."""
        measurement = evidence.measurement
        findings = self.findings(evidence)
        on_others = tuple(_notes_on_others(evidence))
        is_essential = any(tensor.stats.nan for tensor in evidence.others)
        return concluded(
            Verdict(
                path=measurement.path,
                step=evidence.step,
                format=measurement.format,
                summary=evidence.summary if evidence.gradients else None,
                findings=findings,
                notes=(
                    *measurement.notes,
                    *on_others,
                    *_notes_on_unjudged(evidence, self.policy),
                ),
                essential_notes=(
                    *measurement.essential_notes,
                    *(on_others if is_essential else ()),
                ),
                failed=False,
                exit_code=0,
                elapsed_s=elapsed_s,
                kinds=self._kinds(evidence, findings),
                heaviest=heaviest(evidence.gradients, evidence.summary),
            ),
            self.policy,
        )

    def _kinds(self, evidence: Evidence, findings: Sequence[Finding]) -> tuple[KindVerdict, ...]:
        """What is judged of a dump without gradients, each by the findings about its tensors."""
        if not evidence.has_only_state:
            return ()
        failing = [one for one in findings if self.policy.fails(one.severity)]
        failed = {single.tensor for one in failing for single in one.each}
        return tuple(
            KindVerdict(kind, len(tensors), any(tensor.name in failed for tensor in tensors))
            for kind, tensors in evidence.state_by_kind.items()
        )

    def _problems(self, active: ActiveRule, evidence: Evidence) -> list[Problem]:
        rule = active.rule
        if not isinstance(rule, DumpRule) or rule.find is None:
            return []

        def of_tensor(name: str) -> Thresholds | None:
            override = self._override(evidence.names.get(name, [name]))
            return self.policy.thresholds_with(override, rule.code)

        has_exceptions = bool(self.policy.overrides)
        limits = Limits(active.thresholds, of_tensor if has_exceptions else None)
        return list(rule.find(evidence, limits))

    def _override(self, names: Sequence[str]) -> Override | None:
        if not self.policy.overrides:
            return None
        key = tuple(names)
        if key not in self._override_by_names:  # every rule asks, for every tensor of every dump
            self._override_by_names[key] = self.policy.override(key)
        return self._override_by_names[key]


def _left_to(rule: Rule, found: Mapping[str, Sequence[Problem]]) -> list[Problem]:
    """What a rule found, but for the tensors of which another one says more."""
    problems = found[rule.code]
    if not isinstance(rule, DumpRule) or not rule.yields_to:
        return list(problems)
    told = {
        name
        for code in rule.yields_to & found.keys()
        for problem in found[code]
        for name in (problem.tensor, *problem.also)
    }
    return [problem for problem in problems if problem.tensor not in told]


def gravest_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Errors first, then by code."""

    def gravity(finding: Finding) -> tuple[int, str]:
        return SEVERITIES.index(finding.severity), finding.code

    return tuple(sorted(findings, key=gravity))


def _notes_on_unjudged(evidence: Evidence, policy: Policy) -> Iterator[str]:
    """A sentence for each rule in force that could not judge the dump."""
    if evidence.lacks_baseline_tensors and TOTAL_DRIFT in policy.rules:
        yield (
            f"{TOTAL_DRIFT} did not judge: filters leave out tensors of which the baseline has "
            "the total norm"
        )


def _notes_on_others(evidence: Evidence) -> Iterator[str]:
    """What is not finite among what no rule judges: a loss that is NaN must not go unsaid.

    Nor is it a finding: the best score of a trainer begins with infinity.
    """
    bad = [tensor for tensor in evidence.others if tensor.stats.nonfinite]
    bad.sort(key=lambda tensor: not tensor.stats.nan)
    told = [
        f"{shortened(repr(tensor.name), LONGEST_NAME)} "
        f"({', '.join(nonfinite_counts(tensor.stats))})"
        for tensor in bad
    ]
    if told:
        why = "as it is neither gradient, weight nor moment"
        yield f"not finite, and no finding, {why}: {first_of(told)}"


def verdict_on_unreadable(
    path: str, error: GradtoolError, step: int | None, elapsed_s: float
) -> Verdict:
    """The verdict on a dump that could not be measured, with `error` as its finding."""
    dump_rules = [rule for rule in RULES.values() if isinstance(rule, DumpRule)]
    # The most specific rule comes last; the first is for all errors.
    rule = [rule for rule in dump_rules if isinstance(error, rule.errors)][-1]
    problem = error.problem if isinstance(error, InputError) else str(error.args[0])
    problem = problem.removeprefix(f"{path}: ")
    message = f"{problem}; {error.hint}" if error.hint else problem
    finding = Finding(rule.code, rule.name, "error", message)
    if isinstance(error, InputError):
        finding = replace(finding, tensor=error.tensor, file=error.path, byte=error.byte)
    return Verdict(path, step, None, None, (finding,), (), True, error.exit_code, elapsed_s)


def concluded(verdict: Verdict, policy: Policy) -> Verdict:
    """The verdict with `failed` and `exit_code` as its findings imply."""
    failed = any(policy.fails(finding.severity) for finding in verdict.findings)
    unreadable = any(RULES[finding.code].mandatory for finding in verdict.findings)
    exit_code = _UNREADABLE if unreadable else 1 if failed else 0
    return replace(verdict, failed=failed, exit_code=exit_code)
