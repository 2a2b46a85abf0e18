"""Verdicts for programs, schema `gradtool.check/1`: strict JSON, one line for each finding."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from gradtool._version import __version__
from gradtool.core.figures import json_number
from gradtool.core.judging.policy import ActiveRule, Override
from gradtool.core.judging.rule import Threshold, Thresholds
from gradtool.core.judging.verdict import CheckOutcome, Finding, KindVerdict, Verdict
from gradtool.report.inspect.json import figures, optional
from gradtool.report.model import Style

SCHEMA: Final = "gradtool.check/1"

_encode = json.JSONEncoder(allow_nan=False, check_circular=False).encode


def render(outcome: CheckOutcome, style: Style) -> str:  # noqa: ARG001
    """The outcome as one JSON object, with names and paths exactly as they are."""
    policy = outcome.policy
    return _object(
        {
            "schema": _encode(SCHEMA),
            "gradtool": _encode(__version__),
            "verdict": _encode(_verdict(failed=outcome.failed)),
            "exit_code": _encode(outcome.exit_code),
            "fail_on": _encode(policy.fail_on),
            "config": _encode(policy.config),
            "baseline": _encode(outcome.baseline),
            "against": _encode(outcome.against),
            "norm_type": _encode(json_number(outcome.norm_type)),
            "include": _encode(outcome.include),
            "exclude": _encode(outcome.exclude),
            "section": _encode(outcome.section),
            "rules": _lines(_encode(_rule(rule)) for rule in policy.rules.values()),
            "overrides": _lines(_encode(_override(override)) for override in policy.overrides),
            "dumps": _lines(map(_dump, outcome.verdicts)),
            "findings": _findings(outcome.findings),
            "notes": _encode(outcome.notes),
            "counts": _encode(_counts(outcome)),
            "elapsed_s": _encode(round(outcome.elapsed_s, 6)),
        }
    )


def _object(fields: Mapping[str, str]) -> str:
    """A JSON object of values that are JSON already, one field a line."""
    return "{" + ",\n ".join(f'"{key}": {value}' for key, value in fields.items()) + "}\n"


def _lines(items: Iterable[str]) -> str:
    lines = ",\n  ".join(items)
    return f"[\n  {lines}]" if lines else "[]"


def _verdict(*, failed: bool) -> str:
    return "fail" if failed else "pass"


def _rule(active: ActiveRule) -> dict[str, object]:
    return {
        "code": active.rule.code,
        "name": active.rule.name,
        "severity": active.severity,
        "thresholds": _thresholds(active.thresholds),
    }


def _override(override: Override) -> dict[str, object]:
    return {
        "patterns": override.patterns,
        "ignore": sorted(override.ignore),
        "thresholds": {code: _thresholds(values) for code, values in override.thresholds.items()},
    }


def _thresholds(thresholds: Thresholds) -> dict[str, object]:
    return {name: _threshold(value) for name, value in thresholds.items()}


def _threshold(value: Threshold) -> object:
    return optional(value) if value is None or isinstance(value, int | float) else value


def _dump(verdict: Verdict) -> str:
    summary = verdict.summary
    return _object(
        {
            "path": _encode(verdict.path),
            "step": _encode(verdict.step),
            "format": _encode(verdict.format),
            "verdict": _encode(_verdict(failed=verdict.failed)),
            "exit_code": _encode(verdict.exit_code),
            "total": _encode(None if summary is None else figures(summary)),
            "kinds": _encode([_kind(kind) for kind in verdict.kinds]),
            "findings": _findings(verdict.findings),
            "notes": _encode(verdict.notes),
            "elapsed_s": _encode(round(verdict.elapsed_s, 6)),
        }
    ).rstrip("\n")


def _kind(kind: KindVerdict) -> dict[str, object]:
    return {
        "kind": kind.kind,
        "tensors": kind.tensors,
        "verdict": _verdict(failed=kind.failed),
    }


def _findings(findings: Iterable[Finding]) -> str:
    return _lines(_encode(finding_fields(finding)) for finding in findings)


def finding_fields(finding: Finding) -> dict[str, object]:
    """The fields of a finding, with those that are told together as it."""
    return {
        "code": finding.code,
        "name": finding.name,
        "severity": finding.severity,
        "message": finding.message,
        "tensor": finding.tensor,
        "index": finding.index,
        "value": optional(finding.value),
        "limit": optional(finding.limit),
        "file": finding.file,
        "byte": finding.byte,
        "pattern": finding.pattern,
        "details": [finding_fields(detail) for detail in finding.details],
    }


def _counts(outcome: CheckOutcome) -> dict[str, int]:
    severities = Counter(finding.severity for finding in outcome.all_findings)
    return {
        "dumps": len(outcome.verdicts),
        "failed": sum(verdict.failed for verdict in outcome.verdicts),
        "errors": severities["error"],
        "warnings": severities["warning"],
    }
