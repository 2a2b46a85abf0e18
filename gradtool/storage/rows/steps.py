"""Rows of steps as bytes: what a policy said of a dump, and the figures that are shown of it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast, get_args

from gradtool.core.judging.rule import Severity
from gradtool.core.judging.verdict import Finding, KindVerdict, Verdict
from gradtool.core.judging.weights import Weight
from gradtool.core.trends.steps import Breakage, Step
from gradtool.storage.rows import numbers
from gradtool.storage.rows.summaries import items_of, kind_of, summary_fields, summary_of
from gradtool.storage.rows.texts import Fields, as_number, count_of, number_of, text_of, written

Value = TypeVar("Value")

_LENGTH: Final = struct.Struct("<I")
_DEEPEST: Final = 1
"""Findings are told together once."""


def step_bytes(step: Step) -> bytes:
    """A step, but for its path and the tensors that were asked for, as bytes."""
    verdict, total, broken = step.verdict, step.total, step.breakage
    head = written(
        {
            "format": verdict.format,
            "step": verdict.step,
            "notes": verdict.notes,
            "essential_notes": verdict.essential_notes,
            "failed": verdict.failed,
            "exit_code": verdict.exit_code,
            "kinds": [[one.kind, one.tensors, one.failed] for one in verdict.kinds],
            "findings": list(map(_finding_fields, verdict.findings)),
            "total": None if total is None else summary_fields(total),
            "norm_type": None if total is None else as_number(total.stats.norm_type),
            "heaviest": [[one.name, one.share] for one in verdict.heaviest],
            "breakage": None
            if broken is None
            else [
                *(broken.first, broken.tensors, broken.among, broken.in_model_order),
                broken.advice,
            ],
            "model": step.model,
        }
    )
    rows = numbers.packed([] if total is None else [total.stats])
    return _LENGTH.pack(len(head)) + head + rows


def step_of(data: bytes, path: str, elapsed_s: float) -> Step:
    """The step that bytes spell, of the dump at a path; ValueError for anything else."""
    if len(data) < _LENGTH.size:
        raise ValueError("cut short")
    end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    if end > len(data):
        raise ValueError("cut short")
    fields = Fields.read(data[_LENGTH.size : end])
    p = fields.optional("norm_type", number_of)
    rows = iter(numbers.unpacked(data[end:], 2.0 if p is None else p))
    total = fields.optional("total", lambda members: summary_of(members, rows))
    exit_code = fields.count("exit_code")
    failed = fields.flag("failed")
    if exit_code > 3 or (exit_code > 0) != failed:
        raise ValueError("an exit code that is none")
    verdict = Verdict(
        path=path,
        step=fields.optional("step", count_of),
        format=fields.optional("format", text_of),
        summary=total,
        findings=fields.listed("findings", _finding),
        notes=fields.texts("notes"),
        failed=failed,
        exit_code=exit_code,
        elapsed_s=elapsed_s,
        kinds=fields.listed("kinds", _kind),
        essential_notes=fields.texts("essential_notes"),
        heaviest=fields.listed("heaviest", _weight),
    )
    return Step(
        verdict,
        fields.optional("breakage", _breakage),
        fields.text("model"),
    )


def _finding_fields(finding: Finding) -> list[object]:
    return [
        *(finding.code, finding.name, finding.severity, finding.message, finding.tensor),
        *(finding.index, as_number(finding.value), as_number(finding.limit), finding.file),
        *(finding.byte, finding.pattern, list(map(_finding_fields, finding.details))),
    ]


def _finding(item: Any, depth: int = 0) -> Finding:
    code, name, severity, message, tensor, index, value, limit, file, byte, pattern, details = (
        items_of(item, 12)
    )
    if severity not in get_args(Severity) or not isinstance(details, list) or depth > _DEEPEST:
        raise ValueError("no finding")
    return Finding(
        code=text_of(code),
        name=text_of(name),
        severity=cast(Severity, severity),
        message=text_of(message),
        tensor=_optional(tensor, text_of),
        index=_optional(index, _index),
        value=_optional(value, number_of),
        limit=_optional(limit, number_of),
        file=_optional(file, text_of),
        byte=_optional(byte, count_of),
        pattern=_optional(pattern, text_of),
        details=tuple(_finding(detail, depth + 1) for detail in details),
    )


def _kind(item: Any) -> KindVerdict:
    kind, tensors, failed = items_of(item, 3)
    return KindVerdict(kind_of(kind), count_of(tensors), _flag(failed))


def _weight(item: Any) -> Weight:
    name, share = items_of(item, 2)
    return Weight(text_of(name), _optional(share, _share))


def _breakage(item: Any) -> Breakage:
    first, tensors, among, in_model_order, advice = items_of(item, 5)
    return Breakage(
        text_of(first), count_of(tensors), count_of(among), _flag(in_model_order), text_of(advice)
    )


def _index(item: Any) -> tuple[int, ...]:
    if not isinstance(item, list):
        raise ValueError("an index that is no list")
    return tuple(map(count_of, item))


def _share(value: Any) -> float:
    share = number_of(value)
    if not 0.0 <= share <= 1.0:
        raise ValueError("no share")
    return share


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("not true or false")
    return value


def _optional(value: Any, read: Callable[[Any], Value]) -> Value | None:
    return None if value is None else read(value)
