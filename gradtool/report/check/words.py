"""Texts about findings, verdicts and policies that the formats for people share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from gradtool.core.figures import counted, norm_name, short, significant
from gradtool.core.judging.policy import ActiveRule, Override, Policy
from gradtool.core.judging.rule import Thresholds, family, threshold_texts
from gradtool.core.judging.verdict import CheckOutcome, Finding, KindVerdict, Verdict
from gradtool.report.escaping import brief, visible
from gradtool.report.words import NOUNS
from gradtool.shortening import LONGEST_NAME, fitted, shortened


def subject(finding: Finding, verdict: Verdict | None) -> Iterator[str]:
    """The words before the message: the file if it is not the dump itself, and the tensors."""
    if finding.file is not None and (verdict is None or finding.file != verdict.path):
        yield finding.file
    if (tensors := tensors_of(finding)) is not None:
        yield tensors


def tensors_of(finding: Finding) -> str | None:
    """The tensor, or the pattern of the names of several; None where it is all, or the file."""
    return finding.pattern if finding.tensor is None else finding.tensor


def sentence(finding: Finding, verdict: Verdict | None, room: int | None = None) -> str:
    """The finding in one line, without its code, in at most `room` characters if given.

    Parts that are too long for their share of `room` are cut in their middle.
    """
    parts = [visible(part) for part in (*subject(finding, verdict), finding.message)]
    position = f" (at byte {finding.byte})" if finding.byte is not None else ""
    if room is None:
        return _visible(parts, position)
    parts = fitted(parts, room - len(position) - 2 * (len(parts) - 1))
    return shortened(_visible(parts, position), room)


def _visible(parts: Sequence[str], position: str) -> str:
    # Once joined, parts may begin like a command to a runner though none of them does alone.
    return visible(": ".join(parts) + position)


def status_words(verdict: Verdict) -> str:
    """`ok`, `FAILED` or `NOT JUDGED`."""
    if not verdict.is_judged:
        return "NOT JUDGED"
    return "FAILED" if verdict.failed else "ok"


def kind_words(kind: KindVerdict) -> str:
    """As `12 weights ok`."""
    return f"{counted(kind.tensors, NOUNS[kind.kind])} {'FAILED' if kind.failed else 'ok'}"


def facts(verdict: Verdict) -> Iterator[str]:
    """What is known about the dump: its step, number of gradients, norm, and findings."""
    if verdict.step is not None:
        yield f"step {verdict.step}"
    if (summary := verdict.summary) is not None:
        yield counted(summary.tensors, "gradient")
        yield f"{norm_name(summary.stats.norm_type)} {significant(summary.norm, 6)}"
    yield from severity_counts(verdict.findings)


def severity_counts(findings: Iterable[Finding]) -> Iterator[str]:
    """The number of findings of each severity, as `2 errors`, `1 warning`."""
    counts = Counter(finding.severity for finding in findings)
    for severity in ("error", "warning"):
        if counts[severity]:
            yield counted(counts[severity], severity)


def conclusion(outcome: CheckOutcome) -> str:
    """The verdict over all dumps in one line."""
    failed = sum(verdict.failed for verdict in outcome.verdicts)
    all_dumps = counted(len(outcome.verdicts), "dump")
    if failed:
        parts = [f"{failed} of {all_dumps} failed"]
    else:
        parts = [f"{all_dumps} failed together" if outcome.failed else f"{all_dumps} ok"]
    parts.extend(severity_counts(outcome.all_findings))
    return ", ".join(parts)


def selection(outcome: CheckOutcome) -> Iterator[tuple[str, str]]:
    """Label and value of what selected the tensors, and of the order of norms if it is not 2."""
    if outcome.norm_type != 2.0:
        yield "norm type", short(outcome.norm_type)
    if outcome.section is not None:
        yield "section", brief(repr(outcome.section))
    for name, globs in (("include", outcome.include), ("exclude", outcome.exclude)):
        if globs:
            yield name, brief(" ".join(globs))


def policy_settings(policy: Policy) -> Iterator[tuple[str, str]]:
    """Label and value of every setting of the policy, its rules by family."""
    yield "fail on", policy.fail_on
    if policy.config is not None:
        yield "config", brief(policy.config)
    for name, codes in groupby(policy.rules, family):
        yield name, ", ".join(brief(_rule(policy.rules[code]), LONGEST_NAME) for code in codes)
    for override in policy.overrides:
        yield "override", brief(override_text(override))


def _rule(active: ActiveRule) -> str:
    """As `GT203 min_norm=1e-08 max_norm=10000`, with the severity if it is not the rule's own."""
    words = [active.rule.code, *_settings(active.thresholds)]
    if active.severity != active.rule.severity:
        words.append(f"severity={active.severity}")
    return " ".join(words)


def _settings(thresholds: Thresholds) -> Iterator[str]:
    for name, value in threshold_texts(thresholds):
        yield f"{name}={value}"


def override_text(override: Override) -> str:
    """The override in one line, as `embed.*: ignore GT205, GT204 max_norm=10`."""
    parts = [f"ignore {' '.join(sorted(override.ignore))}"] if override.ignore else []
    for code, thresholds in override.thresholds.items():
        parts.append(" ".join([code, *_settings(thresholds)]))
    return f"{' '.join(override.patterns)}: {', '.join(parts) or 'nothing is left'}"
