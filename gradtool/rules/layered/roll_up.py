"""Many findings of one rule about single tensors, told as few."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Final

from gradtool.core.figures import counted
from gradtool.core.judging.policy import ActiveRule
from gradtool.core.judging.verdict import Finding
from gradtool.core.order.layers import layers_text, split_name
from gradtool.core.order.patterns import Pattern, patterns
from gradtool.core.tensors import ABSENT, hides_magnitude
from gradtool.rules.evidence import DumpRule, Evidence, Problem

_LEAST_LOG: Final = 1e-300


def finding_of(active: ActiveRule, problem: Problem) -> Finding:
    """A problem as a finding of the rule that found it."""
    return Finding(
        code=active.rule.code,
        name=active.rule.name,
        severity=active.severity,
        message=problem.message,
        tensor=problem.tensor,
        index=problem.index,
        value=problem.value,
        limit=problem.limit,
    )


def rolled_up(
    active: ActiveRule, problems: Sequence[Problem], evidence: Evidence
) -> Iterator[Finding]:
    """The findings of a rule about a dump: where tensors are alike, one about all of them.

    Of all gradients it is one that says so; else there is one for each pattern of names. Each has
    those about single tensors as its details.
    """
    rule = active.rule
    single = {one.tensor: one for one in problems if one.tensor is not None}
    if not isinstance(rule, DumpRule) or not rule.alike or len(single) < 2:
        yield from (finding_of(active, problem) for problem in problems)
        return
    yield from (finding_of(active, problem) for problem in problems if problem.tensor is None)
    told = _Told(active, rule, evidence, single)
    if (everything := told.everything()) is not None:
        yield everything
        return
    found = patterns(single, _names_beside(single, evidence))
    if len(found) > 1 and rule.is_one_fault is not None and rule.is_one_fault(evidence, single):
        yield told.as_one_fault()
        return
    for pattern in found:
        yield told.pattern(pattern)


def _names_beside(names: Collection[str], evidence: Evidence) -> Iterator[str]:
    """All names of the sections that the tensors with these `names` are in, measured or not.

    These names are among them, also where only a baseline has them.
    """
    yield from names
    measurement = evidence.measurement
    found = [evidence.by_name.get(name) for name in names]
    sections = {tensor.spec.section for tensor in found if tensor is not None}
    for tensor in measurement.tensors:
        if tensor.spec.section in sections or not sections:
            yield tensor.name
    for item in measurement.skipped:
        if hides_magnitude(item) or item.reason == ABSENT:
            yield item.name


class _Told:
    """The words and figures of findings that stand for several."""

    def __init__(
        self, active: ActiveRule, rule: DumpRule, evidence: Evidence, single: dict[str, Problem]
    ) -> None:
        self._active = active
        self._rule = rule
        self._evidence = evidence
        self._single = single

    def everything(self) -> Finding | None:
        """The finding about all gradients, or all weights, if that is what they are about."""
        problems = list(self._single.values())
        for noun, names in self._evidence.names_by_noun.items():
            if names == self._single.keys():
                message = f"all {counted(len(names), noun)} are {self._alike(problems)}"
                part = _choose(problems, "", " in whole or in part", " in part")
                return self._finding(message + part, problems)
        return None

    def as_one_fault(self) -> Finding:
        """The finding about all that the rule found."""
        problems = list(self._single.values())
        among = counted(len(self._evidence.gradients), "gradient")
        part = _choose(problems, "", " in whole or in part", " in part")
        layers = ""
        if self._rule.ending is None:  # which else says where they are
            numbers = (split_name(name).number for name in self._single)
            layers = f" ({layers_text(number for number in numbers if number is not None)})"
        message = f"{len(problems):,} of {among}{layers} are {self._alike(problems)}{part}"
        return self._finding(message, problems)

    def pattern(self, pattern: Pattern) -> Finding:
        """The finding about the tensors of one pattern."""
        problems = [self._single[name] for name in pattern.names]
        if len(problems) == 1:
            return finding_of(self._active, problems[0])
        elements = _choose(problems, ", all elements", "", ", some elements")
        message = f"{self._alike(problems)} {pattern.extent}{elements}"
        return self._finding(message, problems, pattern)

    def _alike(self, problems: Sequence[Problem]) -> str:
        """What all these tensors are, in the words after "are"."""
        return " or ".join(sorted({one.alike or self._rule.alike for one in problems}))

    def _finding(
        self, message: str, problems: Sequence[Problem], pattern: Pattern | None = None
    ) -> Finding:
        worst = max(problems, key=_distance)
        if self._rule.ending is not None:
            ending = self._rule.ending(self._evidence, problems)
        else:
            ending = _naming(worst, problems)
        if pattern is not None and (self._rule.ending is None or not ending):
            message += pattern.which
        return replace(
            finding_of(self._active, worst),
            message=message + ending,
            tensor=None,
            index=None,
            pattern=None if pattern is None else pattern.text,
            details=tuple(finding_of(self._active, problem) for problem in problems),
        )


def _choose(problems: Sequence[Problem], whole: str, mixed: str, part: str) -> str:
    """The word for tensors of which all, some or no elements are what the rule looks for."""
    told = {problem.is_whole for problem in problems}
    if None in told:
        return ""
    return mixed if len(told) > 1 else whole if True in told else part


def _distance(problem: Problem) -> float:
    """How far a figure is from its bound, in either direction."""
    value, bound = problem.value, problem.limit
    if value is None or bound is None:
        return 0.0
    if math.isnan(value):
        return math.inf
    if bound == 0.0 or math.isinf(bound):
        return abs(value)
    return abs(math.log(max(value, _LEAST_LOG) / bound))


def _naming(worst: Problem, problems: Sequence[Problem]) -> str:
    """What is wrong with the worst of several tensors, where it is not the same for all."""
    if len({problem.message for problem in problems}) == 1:
        return ""
    return f"; most of all {worst.tensor!r}: {worst.message}"
