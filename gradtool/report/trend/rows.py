"""Steps in flat rows: the columns of CSV, and what `to_rows` gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from gradtool.core.trends.steps import Part, Step
from gradtool.core.trends.trend import Run, Trend
from gradtool.report.check.rows import dump_row

COLUMNS: Final = (
    *("step", "path", "norm", "finite_norm", "native_norm", "max_abs", "nan", "posinf", "neginf"),
    *("clip_coef", "top", "top_share", "tensors", "verdict", "errors", "warnings", "codes", "run"),
    *("logged_norm", "log_quotient"),
)

PART_COLUMNS: Final = (
    *("step", "path", "name", "numel", "norm", "finite_norm", "max_abs"),
    *("nan", "posinf", "neginf", "zeros", "share", "run"),
)
"""The same of the tensors of steps."""


def step_rows(trend: Trend) -> Iterator[dict[str, Any]]:
    """A row for each step of each run; None for what it does not have."""
    return (_step(trend, run, step) for run in trend.runs for step in run.steps)


def part_rows(trend: Trend) -> Iterator[dict[str, Any]]:
    """A row for each tensor of each step that was followed by itself."""
    for run in trend.runs:
        for step in run.steps:
            yield from (_part(run, step, part) for part in step.tensors)


def _step(trend: Trend, run: Run, step: Step) -> dict[str, Any]:
    figures = {
        **dump_row(step.verdict),
        "native_norm": None if step.total is None else step.total.native_norm,
        "clip_coef": trend.clip_coef(step),
        "top": None if step.top is None else step.top.name,
        "top_share": None if step.top is None else step.top.share,
        "run": run.name,
        "logged_norm": step.logged_norm,
        "log_quotient": step.log_quotient,
    }
    return {column: figures[column] for column in COLUMNS}


def _part(run: Run, step: Step, part: Part) -> dict[str, Any]:
    stats = part.stats
    values = (
        *(step.number, step.path, part.name, stats.numel, stats.norm, stats.finite_norm),
        *(stats.max_abs, stats.nan, stats.posinf, stats.neginf, stats.zeros, part.share, run.name),
    )
    return dict(zip(PART_COLUMNS, values, strict=True))
