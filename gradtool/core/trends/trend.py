"""What following runs step by step gives; every figure of every report is read off here."""

from __future__ import annotations

from dataclasses import dataclass, field

from gradtool.core.clipping import TORCH_EPS, clip_coef
from gradtool.core.judging.policy import Policy
from gradtool.core.judging.verdict import Finding
from gradtool.core.judging.weights import Weight
from gradtool.core.trends.steps import Step
from gradtool.display import Displayed


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What the steps of a run say together.

    Attributes:
        code: what kind of conclusion it is: "first-bad", "missing-steps" and so on.
        text: one sentence.
        step: the step that it begins with; None where that has no number, or it is about no step.
        path: of that step's dump.
        tensor: name of the tensor in question.
        tensors: those that made it so, with their shares, the heaviest first.
    """

    code: str
    text: str
    step: int | None = None
    path: str | None = None
    tensor: str | None = None
    tensors: tuple[Weight, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """The steps of one run, in their order.

    Attributes:
        name: as the user called it: a directory, a glob, or the first of several paths.
        steps: in the order of their numbers.
        conclusions: what is to be said first.
        findings: about several steps together.
    """

    name: str
    steps: tuple[Step, ...]
    conclusions: tuple[Conclusion, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def norms(self) -> list[tuple[Step, float]]:
        """The norm of each step that has one."""
        return [(step, step.total.norm) for step in self.steps if step.total is not None]


@dataclass(frozen=True, slots=True, repr=False)
class Trend(Displayed):
    """The steps of one run or of several.

    Attributes:
        runs: in the order in which they were given.
        policy: what the steps were judged by.
        baseline: path of the baseline they were compared with; None without one.
        norm_type: p of the norms.
        max_norm, eps: what clipping would clip to, and add to the norm; None if not asked for.
        notes: what deserves a warning, one sentence each.
        elapsed_s: seconds from start to end.
    """

    runs: tuple[Run, ...]
    policy: Policy
    baseline: str | None = None
    norm_type: float = 2.0
    max_norm: float | None = None
    eps: float = TORCH_EPS
    notes: tuple[str, ...] = ()
    elapsed_s: float = field(default=0.0, compare=False)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of all runs."""
        return tuple(step for run in self.runs for step in run.steps)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found about several steps together."""
        return tuple(finding for run in self.runs for finding in run.findings)

    @property
    def conclusions(self) -> tuple[Conclusion, ...]:
        """Those about each run."""
        return tuple(one for run in self.runs for one in run.conclusions)

    @property
    def headline(self) -> str:
        """How many steps there are, and the first thing that is wrong."""
        failed = sum(step.verdict.failed for step in self.steps)
        state = f"{len(self.steps)} steps, {failed} failed"
        return "; ".join([state, *(one.text for one in self.conclusions[:1])])

    def clip_coef(self, step: Step) -> float | None:
        """What clipping to `max_norm` would multiply a step by; None if that was not asked for."""
        if self.max_norm is None or step.total is None:
            return None
        return clip_coef(step.total.norm, self.max_norm, self.eps)

    def __bool__(self) -> bool:
        """Whether all steps passed, by themselves and together."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """The highest of 0: healthy, 1: failed, 2: wrong usage for a dump, 3: unreadable dump."""
        together = any(self.policy.fails(finding.severity) for finding in self.findings)
        return max([int(together), *(step.verdict.exit_code for step in self.steps)])
