"""Results of judging: findings, a verdict on each dump, and the outcome over all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from gradtool.core.figures import counted
from gradtool.core.judging.policy import Policy
from gradtool.core.judging.rule import Severity
from gradtool.core.judging.weights import Weight
from gradtool.core.measurement import Summary
from gradtool.core.tensors import SectionKind
from gradtool.display import Displayed, short_repr


@dataclass(frozen=True, slots=True, repr=False)
class Finding:
    """One thing that is wrong with a dump, or with several together.

    Attributes:
        code: of the rule that found it.
        name: of that rule.
        severity: "error" or "warning".
        message: what is wrong, without the dump's name or the tensor's.
        tensor: name of the tensor in question; None where it is all of them, or the file.
        index: of the element in question in the tensor's shape.
        value: the figure that is out of bounds; None where no figure is.
        limit: the bound that it is out of.
        file, byte: of a dump that cannot be read, which file is at fault, and at which offset.
        pattern: what the names of several tensors have in common, if it is about these; see
            `core.order.patterns`.
        details: the findings about single tensors that are told together as this one.
    """

    code: str
    name: str
    severity: Severity
    message: str
    tensor: str | None = None
    index: tuple[int, ...] | None = None
    value: float | None = None
    limit: float | None = None
    file: str | None = None
    byte: int | None = None
    pattern: str | None = None
    details: tuple[Finding, ...] = ()

    @property
    def each(self) -> tuple[Finding, ...]:
        """What it tells together, one by one; itself where it is but one."""
        return self.details or (self,)

    def __repr__(self) -> str:
        about = "" if self.tensor is None else f"{self.tensor!r:.160}: "
        return short_repr(self, f"{self.severity} {self.code} {self.name}: {about}{self.message}")


@dataclass(frozen=True, slots=True)
class KindVerdict:
    """The judgement of the weights, or of the optimizer's moments, of a dump without gradients.

    Attributes:
        kind: what they are.
        tensors: number of stored tensors.
        failed: whether a finding about one of them is grave enough to fail the dump.
    """

    kind: SectionKind
    tensors: int
    failed: bool


@dataclass(frozen=True, slots=True, repr=False)
class Verdict:
    """The judgement of one dump.

    Attributes:
        path: of the dump, as the user gave it.
        step: of the training, as the dump notes it or else its path; None where neither does.
        format: name of its format; None if it could not be read.
        summary: of the gradients that were judged; None if there are none or it could not be read.
        findings: the gravest first.
        notes: what was assumed, one sentence each.
        failed: whether a finding is grave enough to fail the dump.
        exit_code: 0, or 1 for findings, or that of the error that kept it from being judged.
        elapsed_s: seconds that it took to read and judge.
        kinds: of a dump that holds no gradients, what was judged instead.
        essential_notes: those of the notes that are said even where little is.
        heaviest: the gradients with the largest norms, the largest first; some of them.
    """

    path: str
    step: int | None
    format: str | None
    summary: Summary | None
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    failed: bool
    exit_code: int
    elapsed_s: float
    kinds: tuple[KindVerdict, ...] = ()
    essential_notes: tuple[str, ...] = ()
    heaviest: tuple[Weight, ...] = ()

    def __repr__(self) -> str:
        codes = " ".join(sorted({finding.code for finding in self.findings}))
        state = "failed" if self.failed else "passed"
        return short_repr(self, f"{self.path!r:.240}: {state}{codes and f', {codes}'}")

    def __bool__(self) -> bool:
        """Whether the dump passed."""
        return self.exit_code == 0

    @property
    def is_judged(self) -> bool:
        """Whether it could be read and holds something to judge."""
        return self.summary is not None or bool(self.kinds)

    @property
    def has_nonfinite(self) -> bool:
        """Whether any gradient that was judged holds NaN or Inf."""
        return self.summary is not None and self.summary.stats.nonfinite > 0


@dataclass(frozen=True, slots=True, repr=False)
class CheckOutcome(Displayed):
    """The result of a call of `check`.

    Attributes:
        verdicts: one for each dump, in the order of steps.
        findings: about several dumps together.
        policy: what the dumps were judged by.
        baseline: path of the baseline they were compared with; None without one.
        against: path of the dump they were compared with, element by element; None without one.
        norm_type: p of the norms.
        include, exclude: globs over the names of the tensors that were judged.
        section: the only one that was judged; None for all.
        notes: what deserves a warning, one sentence each.
        elapsed_s: seconds from start to end.
    """

    verdicts: tuple[Verdict, ...]
    findings: tuple[Finding, ...]
    policy: Policy
    baseline: str | None
    against: str | None = None
    norm_type: float = 2.0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    section: str | None = None
    notes: tuple[str, ...] = ()
    elapsed_s: float = field(default=0.0, compare=False)

    @property
    def headline(self) -> str:
        """How many dumps failed, and by which rules."""
        failed = sum(verdict.failed for verdict in self.verdicts)
        codes = " ".join(sorted({finding.code for finding in self.all_findings}))
        dumps = counted(len(self.verdicts), "dump")
        state = f"{failed} of {dumps} failed"
        if not failed:
            state = f"{dumps} {'failed together' if self.failed else 'passed'}"
        return f"{state}, {codes}" if codes else state

    def __bool__(self) -> bool:
        """Whether all dumps passed, by themselves and together."""
        return self.exit_code == 0

    @property
    def failed(self) -> bool:
        """Whether a dump failed, or several together."""
        failed_together = any(self.policy.fails(finding.severity) for finding in self.findings)
        return failed_together or any(verdict.failed for verdict in self.verdicts)

    @property
    def exit_code(self) -> int:
        """The highest of 0: healthy, 1: failed, 2: wrong usage for a dump, 3: unreadable dump."""
        codes = [verdict.exit_code for verdict in self.verdicts]
        return max([*codes, 1 if self.failed else 0], default=0)

    @property
    def all_findings(self) -> Iterator[Finding]:
        """The findings about each dump, then those about several together."""
        for verdict in self.verdicts:
            yield from verdict.findings
        yield from self.findings
