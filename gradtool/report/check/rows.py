"""Findings in the order of their importance, and dumps in flat rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from gradtool.core.judging.rule import SEVERITIES, family
from gradtool.core.judging.verdict import CheckOutcome, Finding, Verdict


@dataclass(frozen=True, slots=True)
class DumpFinding:
    """A finding and the verdict on the dump that it is about; None if it is about several."""

    finding: Finding
    verdict: Verdict | None


def most_important_first(outcome: CheckOutcome) -> list[DumpFinding]:
    """Every finding: errors, then warnings.

    Among these what kept a dump from being judged comes first, then non-finite values, then the
    other families, and in each family findings about several dumps. Of equally important ones the
    first of each dump and rule comes before any second one, so that a list that is cut names as
    many dumps as possible.
    """
    ranked = []
    seen: Counter[tuple[int, str]] = Counter()
    for dump, verdict in [(-1, None), *enumerate(outcome.verdicts)]:
        findings = outcome.findings if verdict is None else verdict.findings
        for finding in findings:
            rank = _rank(finding, verdict)
            nth = seen[dump, finding.code]
            seen[dump, finding.code] += 1
            ranked.append((rank, nth, finding.code, DumpFinding(finding, verdict)))
    return [row for *_, row in sorted(ranked, key=lambda item: item[:3])]


def with_details(rows: Iterable[DumpFinding]) -> Iterator[DumpFinding]:
    """Each of `rows`, and behind it those that are told together as it."""
    for row in rows:
        yield row
        yield from (DumpFinding(detail, row.verdict) for detail in row.finding.details)


def _rank(finding: Finding, verdict: Verdict | None) -> tuple[int, int, bool]:
    if verdict is not None and not verdict.is_judged:
        kind = -2
    elif family(finding.code) == "non-finite":
        kind = -1
    else:
        kind = int(finding.code[2])
    return SEVERITIES.index(finding.severity), kind, verdict is not None


def dump_row(verdict: Verdict) -> dict[str, Any]:
    """A dump in a flat row: figures of its gradients, None where none were judged."""
    summary = verdict.summary
    stats = None if summary is None else summary.stats
    severities = Counter(finding.severity for finding in verdict.findings)
    return {
        "path": verdict.path,
        "step": verdict.step,
        "format": verdict.format,
        "verdict": "fail" if verdict.failed else "pass",
        "exit_code": verdict.exit_code,
        "tensors": None if summary is None else summary.tensors,
        "norm": None if summary is None else summary.norm,
        "finite_norm": None if summary is None else summary.finite_norm,
        "max_abs": None if stats is None else stats.max_abs,
        "nan": None if stats is None else stats.nan,
        "posinf": None if stats is None else stats.posinf,
        "neginf": None if stats is None else stats.neginf,
        "errors": severities["error"],
        "warnings": severities["warning"],
        "codes": " ".join(sorted({finding.code for finding in verdict.findings})),
    }
