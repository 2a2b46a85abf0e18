"""What is new in a run that is followed: steps as they come, judged with all that were before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from gradtool.api.trending import Following
from gradtool.core.judging.verdict import Finding
from gradtool.core.trends.steps import Step

PATIENCE_S: Final = 1.0
"""How long a step that was read waits for others, to be judged together with them."""

Key: TypeAlias = tuple[str, int | None]
"""The path and the number of a step: rows of a store have the first in common."""


@dataclass(frozen=True, slots=True)
class News:
    """What there is to say of a run: a step that is finished, or what several steps show.

    Attributes:
        run: its name.
        step: None for a finding about several.
        findings: of that step; or the one about several.
        is_change: whether the step was told of before, and is another now.
        fails: whether the policy fails it.
    """

    run: str
    step: Step | None
    findings: tuple[Finding, ...]
    is_change: bool
    fails: bool


@dataclass(slots=True)
class Telling:
    """Makes news of the steps of one run."""

    run: str
    reader: Following
    _told: set[object] = field(default_factory=set)

    def news(self, steps: Iterable[Step], read: Mapping[Key, bool]) -> Iterator[News]:
        """Of all steps so far those that were read, which says of each whether it is a change."""
        if not read:
            return
        run = self.reader.run_of(self.run, list(steps))
        for step in run.steps:
            if (key := key_of(step)) in read:
                yield self.of_step(step, is_change=read[key])
        for finding in run.findings:
            if (about := (finding.code, finding.message)) not in self._told:
                self._told.add(about)
                fails = self.reader.judging.judge.policy.fails(finding.severity)
                yield News(self.run, None, (finding,), False, fails)

    def of_step(self, step: Step, *, is_change: bool = False) -> News:
        """A step that is judged."""
        verdict = step.verdict
        return News(self.run, step, verdict.findings, is_change, verdict.exit_code != 0)


def key_of(step: Step) -> Key:
    """What tells a step from the others of its run."""
    return step.path, step.number


def said_of(step: Step) -> object:
    """What is said of a step, to tell whether a change is one worth a line."""
    total, verdict = step.total, step.verdict
    return repr((total, step.top, verdict.findings, verdict.format is None))
