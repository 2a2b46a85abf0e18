"""What judging dumps gives: findings, a verdict for each dump, and one over all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from gradtool.core.judging.policy import Policy
from gradtool.core.judging.rule import Severity
from gradtool.core.measurement import Summary


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        code: of the rule that found it.
        name: the rule's.
        severity: "error" or "warning".
        message: what is wrong, without the dump's name or the tensor's.
        tensor: which one it is about; None where it is about all, or about the file.
        index: of the element in question in the tensor's shape.
        value: the figure that is out of bounds, and
        limit: the bound, where there are such.
        file, byte: where in which file the problem lies, for one that cannot be read.
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


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said about one dump.

    Attributes:
        path: of the dump, as the user gave it.
        step: of the training, where the dump says it, or its path.
        format: name of its format; None where it could not be read, as the following.
        summary: of the gradients that were judged.
        findings: the gravest first.
        notes: what was assumed, one sentence each.
        failed: whether a finding is grave enough.
        exit_code: 0, or 1 for findings, or that of the error that kept it from being judged.
        elapsed_s: seconds that it took to read and judge.
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

    @property
    def has_nonfinite(self) -> bool:
        """Whether elements of it are NaN or Inf."""
        return self.summary is not None and self.summary.stats.nonfinite > 0


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """What `check` found.

    Attributes:
        verdicts: one for each dump, in the order of steps.
        findings: about several dumps together.
        policy: what was judged by.
        baseline: the file that was compared with, if any.
        norm_type: p of the norms.
        include, exclude: globs over the names of the tensors that were judged.
        section: the one that was, None for all.
        notes: what deserves a warning, one sentence each.
        elapsed_s: seconds from start to end.
    """

    verdicts: tuple[Verdict, ...]
    findings: tuple[Finding, ...]
    policy: Policy
    baseline: str | None
    norm_type: float = 2.0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    section: str | None = None
    notes: tuple[str, ...] = ()
    elapsed_s: float = field(default=0.0, compare=False)

    @property
    def failed(self) -> bool:
        """Whether a dump failed, or all of them together."""
        together = any(self.policy.fails(finding.severity) for finding in self.findings)
        return together or any(verdict.failed for verdict in self.verdicts)

    @property
    def exit_code(self) -> int:
        """0 healthy, 1 findings, 2 a dump that the call does not fit, 3 one that cannot be read.

        The highest of them.
        """
        codes = [verdict.exit_code for verdict in self.verdicts]
        return max([*codes, 1 if self.failed else 0], default=0)

    @property
    def all_findings(self) -> Iterator[Finding]:
        """Those of every dump, and those about several."""
        for verdict in self.verdicts:
            yield from verdict.findings
        yield from self.findings
