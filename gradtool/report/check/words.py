"""What verdicts say, in words that every format for people shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from gradtool.core.figures import counted, norm_name, precise, short
from gradtool.core.judging.policy import ActiveRule, Override, Policy
from gradtool.core.judging.rule import Thresholds, family, threshold_texts
from gradtool.core.judging.verdict import CheckOutcome, Finding, Verdict
from gradtool.report.escaping import brief, visible
from gradtool.shortening import LONGEST_NAME, fitted, shortened


def subject(finding: Finding, verdict: Verdict | None) -> Iterator[str]:
    """What a finding is about, in front of its message: another file than the dump, the tensor."""
    if finding.file is not None and (verdict is None or finding.file != verdict.path):
        yield finding.file
    if finding.tensor is not None:
        yield finding.tensor


def sentence(finding: Finding, verdict: Verdict | None, room: int | None = None) -> str:
    """The finding in one line, without its code, in at most `room` characters if given.

    What is too long for its share of them is cut in its middle.
    """
    parts = [visible(one) for one in (*subject(finding, verdict), finding.message)]
    at = f" (at byte {finding.byte})" if finding.byte is not None else ""
    if room is None:
        return _visible(parts, at)
    parts = fitted(parts, room - len(at) - 2 * (len(parts) - 1))
    return shortened(_visible(parts, at), room)


def _visible(parts: Sequence[str], at: str) -> str:
    # Parts may begin together as a command does that none of them is.
    return visible(": ".join(parts) + at)


def status_words(verdict: Verdict) -> str:
    """`ok`, `FAILED`, or that there is nothing to judge."""
    if verdict.summary is None:
        return "NOT JUDGED"
    return "FAILED" if verdict.failed else "ok"


def facts(verdict: Verdict) -> Iterator[str]:
    """What is known about the dump: its step, tensors and norm."""
    if verdict.step is not None:
        yield f"step {verdict.step}"
    if (summary := verdict.summary) is not None:
        yield counted(summary.tensors, "gradient")
        yield f"{norm_name(summary.stats.norm_type)} {precise(summary.norm)}"
    yield from tally(verdict.findings)


def tally(findings: Iterable[Finding]) -> Iterator[str]:
    """`2 errors`, `1 warning`."""
    counts = Counter(finding.severity for finding in findings)
    for severity in ("error", "warning"):
        if counts[severity]:
            yield counted(counts[severity], severity)


def conclusion(outcome: CheckOutcome) -> str:
    """The verdict over all in one line."""
    dumps = len(outcome.verdicts)
    bad = sum(verdict.failed for verdict in outcome.verdicts)
    all_dumps = counted(dumps, "dump")
    if bad:
        parts = [f"{bad} of {all_dumps} failed"]
    else:
        parts = [f"{all_dumps} failed together" if outcome.failed else f"{all_dumps} ok"]
    parts.extend(tally(outcome.all_findings))
    return ", ".join(parts)


def selection(outcome: CheckOutcome) -> Iterator[tuple[str, str]]:
    """Which tensors were judged, where not all were, and by norms of which order, if not 2."""
    if outcome.norm_type != 2.0:
        yield "norm type", short(outcome.norm_type)
    if outcome.section is not None:
        yield "section", brief(repr(outcome.section))
    for name, globs in (("include", outcome.include), ("exclude", outcome.exclude)):
        if globs:
            yield name, brief(" ".join(globs))


def in_force(policy: Policy) -> Iterator[tuple[str, str]]:
    """Label and value of everything that the verdict was reached by."""
    yield "fail on", policy.fail_on
    if policy.config is not None:
        yield "config", brief(policy.config)
    for name, codes in groupby(policy.rules, family):
        yield name, ", ".join(brief(_rule(policy.rules[code]), LONGEST_NAME) for code in codes)
    for override in policy.overrides:
        yield "override", brief(exception(override))


def _rule(in_force: ActiveRule) -> str:
    """`GT203 min_norm=1e-08 max_norm=10000`, and a severity that is not the rule's own."""
    words = [in_force.rule.code, *_settings(in_force.thresholds)]
    if in_force.severity != in_force.rule.severity:
        words.append(f"severity={in_force.severity}")
    return " ".join(words)


def _settings(values: Thresholds) -> Iterator[str]:
    for name, value in threshold_texts(values):
        yield f"{name}={value}"


def exception(override: Override) -> str:
    """`embed.*: ignore GT205, GT204 max_norm=10`."""
    ignored = [f"ignore {' '.join(sorted(override.ignore))}"] if override.ignore else []
    others = [" ".join([code, *_settings(found)]) for code, found in override.thresholds.items()]
    return f"{' '.join(override.patterns)}: {', '.join(ignored + others) or 'nothing is left'}"
