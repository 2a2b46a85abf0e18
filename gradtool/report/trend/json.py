"""Trends for programs, schema `gradtool.trend/1`: strict JSON, one line for each step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

from gradtool._version import __version__
from gradtool.core.figures import json_number
from gradtool.core.trends.steps import Part, Step
from gradtool.core.trends.trend import Run, Trend
from gradtool.report.check.json import finding_fields
from gradtool.report.inspect.json import optional
from gradtool.report.json_lines import json_object
from gradtool.report.model import Style, TrendReport

SCHEMA: Final = "gradtool.trend/1"


def render(report: TrendReport, style: Style) -> str:  # noqa: ARG001
    """The trend as one JSON object."""
    return json_object(_fields(report.trend)) + "\n"


def _fields(trend: Trend) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "gradtool": __version__,
        "verdict": "pass" if trend else "fail",
        "exit_code": trend.exit_code,
        "baseline": trend.baseline,
        "norm_type": json_number(trend.norm_type),
        "max_norm": optional(trend.max_norm),
        "eps": trend.eps,
        "runs": [{"name": run.name, "steps": len(run.steps)} for run in trend.runs],
        "conclusions": (
            {"run": run.name, **asdict(one)} for run in trend.runs for one in run.conclusions
        ),
        "steps": steps_fields(trend),
        "findings": findings_fields(trend),
        "notes": list(trend.notes),
        "elapsed_s": round(trend.elapsed_s, 6),
    }


def steps_fields(trend: Trend) -> Iterator[dict[str, object]]:
    """The elements of `steps`."""
    return (_step(trend, run, step) for run in trend.runs for step in run.steps)


def findings_fields(trend: Trend) -> Iterator[dict[str, object]]:
    """The elements of `findings`."""
    for run in trend.runs:
        for finding in run.findings:
            yield {"run": run.name, **finding_fields(finding)}


def _step(trend: Trend, run: Run, step: Step) -> dict[str, object]:
    total, verdict = step.total, step.verdict
    stats = None if total is None else total.stats
    top = step.top
    return {
        "step": step.number,
        "path": step.path,
        "run": run.name,
        "format": verdict.format,
        "verdict": "fail" if verdict.failed else "pass",
        "exit_code": verdict.exit_code,
        "tensors_measured": None if total is None else total.tensors,
        "norm": None if total is None else json_number(total.norm),
        "finite_norm": None if total is None else json_number(total.finite_norm),
        "native_norm": None if total is None else optional(total.native_norm),
        "max_abs": None if stats is None else json_number(stats.max_abs),
        "nan": None if stats is None else stats.nan,
        "posinf": None if stats is None else stats.posinf,
        "neginf": None if stats is None else stats.neginf,
        "clip_coef": optional(trend.clip_coef(step)),
        "logged_norm": optional(step.logged_norm),
        "log_quotient": step.log_quotient,
        "top": None if top is None else {"name": top.name, "share": top.share},
        "findings": [finding_fields(finding) for finding in verdict.findings],
        "notes": list(verdict.notes),
        "tensors": list(map(_part, step.tensors)),
        "groups": list(map(_part, step.groups)),
    }


def _part(part: Part) -> dict[str, object]:
    stats = part.stats
    return {
        "name": part.name,
        "numel": stats.numel,
        "norm": json_number(stats.norm),
        "finite_norm": json_number(stats.finite_norm),
        "max_abs": json_number(stats.max_abs),
        "nan": stats.nan,
        "posinf": stats.posinf,
        "neginf": stats.neginf,
        "zeros": stats.zeros,
        "share": part.share,
    }
