"""What reporters are given, made by hand: with a text of its own in every place that takes one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from gradtool.core.clip.outcome import ClipOutcome, Clipped
from gradtool.core.clip.plan import ClipPlan, ClipRequest
from gradtool.core.clipping import Transform
from gradtool.core.dtypes import DTYPES
from gradtool.core.judging.policy import Policy
from gradtool.core.judging.rule import Severity
from gradtool.core.judging.verdict import CheckOutcome, Finding, Verdict
from gradtool.core.measurement import Measurement, TensorMeasurement, summarize
from gradtool.core.stats import TensorStats
from gradtool.core.tensors import Skipped, TensorSpec
from gradtool.report.inspect.arrangement import report_on
from gradtool.report.model import InspectReport
from gradtool.rules import RULES
from gradtool.rules.resolve import resolve
from gradtool.rules.settings import Settings, read_call


@dataclass(frozen=True)
class Figures:
    """Numbers of a tensor of ten elements."""

    power_sum: float = 10.0
    max_abs: float = 1.5
    nan: int = 0
    posinf: int = 0
    neginf: int = 0


PLAIN = Figures()


def tensor(
    name: str,
    figures: Figures = PLAIN,
    *,
    nan: int = 0,
    alias_of: str | None = None,
    section: str = "",
    dtype: str = "F32",
) -> TensorMeasurement:
    """The measurement of one, `nan` of whose elements are NaN."""
    spec = TensorSpec(name, DTYPES[dtype], (2, 5), section=section)
    stats = TensorStats(
        2.0,
        10,
        figures.power_sum,
        max_abs=figures.max_abs,
        nan=nan or figures.nan,
        posinf=figures.posinf,
        neginf=figures.neginf,
    )
    if stats.nonfinite:
        stats = replace(stats, first_nonfinite=7)
    return TensorMeasurement(
        spec,
        alias_of,
        stats,
        unique=None if alias_of else stats,
        unique_in_section=None if alias_of else stats,
        norm=stats.norm,
        native_norm=spec.dtype.round(stats.norm),
    )


def measurement_of(
    *tensors: TensorMeasurement,
    path: str = "dump.safetensors",
    skipped: tuple[Skipped, ...] = (),
    notes: tuple[str, ...] = ("a note",),
    in_model_order: bool = False,
) -> Measurement:
    """The measurement of a dump of gradients, with a section for each that is named."""
    members: dict[str, list[TensorMeasurement]] = {}
    for one in tensors:
        members.setdefault(one.spec.section, []).append(one)
    return Measurement(
        path=path,
        format="safetensors",
        files=(path,),
        nbytes=1234,
        norm_type=2.0,
        backend="numpy",
        loss_scale=1.0,
        tensors=tensors,
        sections=tuple(
            summarize(name, "gradients", ones, skipped, 2.0) for name, ones in members.items()
        ),
        total=summarize("", None, tensors, skipped, 2.0),
        skipped=skipped,
        notes=notes,
        elapsed_s=0.25,
        in_model_order=in_model_order,
    )


def report_of(*tensors: TensorMeasurement, skipped: tuple[Skipped, ...] = ()) -> InspectReport:
    """With a roll-up, and what clipping would do."""
    measurement = measurement_of(*tensors, skipped=skipped)
    return report_on(measurement, order="file", group_by="1", max_norm=1.0)


def clip_of(before: Measurement, after: Measurement, output: str, note: str) -> ClipOutcome:
    """What clipping each tensor by its own norm did, to all of them."""
    names = [one.name for one in before.tensors]
    stored = sum(one.alias_of is None for one in before.tensors)
    plan = ClipPlan(None, dict.fromkeys(names, Transform(0.5)), frozenset(names), stored, 1)
    return ClipOutcome(
        path=before.path,
        output=output,
        request=ClipRequest(max_norm=1.0, per_tensor=True, nonfinite="zero"),
        parts=(Clipped(plan, before, after),),
        dry_run=False,
        notes=(note,),
        elapsed_s=0.5,
    )


def policy_of(*, fail_on: Severity = "error", **thresholds: object) -> Policy:
    """The rules that are in force by default, with thresholds by names such as GT203_max_norm."""
    found = {key.replace("_", ".", 1): value for key, value in thresholds.items()}
    call = read_call(thresholds=found, fail_on=fail_on)
    return resolve(Settings(), call, has_baseline=False)


def finding(
    code: str,
    tensor: str | None = None,
    severity: Severity = "error",
    message: str = "is sick",
    value: float = math.nan,
) -> Finding:
    """What a rule found; the limit is minus infinity."""
    return Finding(code, RULES[code].name, severity, message, tensor, value=value, limit=-math.inf)


def unreadable(path: str, message: str, tensor: str | None = None, file: str = "") -> Verdict:
    """On a dump that could not be read, because of what stands in a file."""
    one = Finding("GT001", "unreadable", "error", message, tensor=tensor, file=file or path, byte=7)
    return Verdict(path, None, None, None, (one,), (), failed=True, exit_code=3, elapsed_s=0.0)


def outcome_of(
    dumps: Iterable[tuple[str, Iterable[Finding]]],
    *,
    together: tuple[Finding, ...] = (),
    policy: Policy | None = None,
    notes: tuple[str, ...] = (),
    figures: Figures = PLAIN,
) -> CheckOutcome:
    """An outcome with such findings of dumps at such paths; all dumps could be read."""
    policy = policy or policy_of()
    summary = measurement_of(tensor("w", figures)).total
    verdicts = []
    for path, found in dumps:
        findings = tuple(found)
        failed = any(policy.fails(one.severity) for one in findings)
        verdicts.append(
            Verdict(
                path, 3, "npy", summary, findings, (), failed, exit_code=int(failed), elapsed_s=0.1
            )
        )
    return CheckOutcome(tuple(verdicts), together, policy, None, notes=notes)
