"""What is said of a step, or of several together, in one line while a run is followed."""

from __future__ import annotations

from gradtool.core.figures import norm_name, significant
from gradtool.core.judging.verdict import Finding
from gradtool.core.trends.steps import Step
from gradtool.core.trends.trend import Trend
from gradtool.report.check.json import finding_fields
from gradtool.report.check.words import sentence
from gradtool.report.escaping import brief
from gradtool.report.grid import CELL_DIGITS
from gradtool.report.json_lines import encode
from gradtool.report.layout import MOODS, Painter
from gradtool.report.model import Style
from gradtool.shortening import LONGEST_LINE, LONGEST_NAME, shortened

_FIGURE_WIDTH = 10


def step_line(trend: Trend, step: Step, style: Style, *, is_change: bool, path: bool) -> str:
    """A step: its norm, its largest element, and what was found or which tensor weighs most.

    `is_change` says that it was told of before; `path` has its path told too.
    """
    head = brief(step.label, LONGEST_NAME) if step.number is not None else brief(step.path)
    if path and step.number is not None:
        head += f" ({brief(step.path, LONGEST_NAME)})"
    if is_change:
        head += " changed"
    total = step.total
    parts = [head]
    if total is not None:
        parts.append(f"{norm_name(trend.norm_type)} {_figure(total.norm)}")
        parts.append(f"max |g| {_figure(total.stats.max_abs)}")
    if (coef := trend.clip_coef(step)) is not None:
        parts.append(f"clip_coef {_figure(coef)}")
    line = "  ".join([*parts, _state(step)])
    mood = MOODS["alarming" if step.verdict.failed else "plain"]
    return Painter(colour=style.colour).paint(shortened(line, LONGEST_LINE), mood)


def finding_line(finding: Finding, style: Style) -> str:
    """What was found in several steps together."""
    head = f"all steps together: {finding.severity} {finding.code} {finding.name}: "
    line = head + sentence(finding, None, LONGEST_LINE - len(head))
    return Painter(colour=style.colour).paint(line, MOODS["alarming"])


def _state(step: Step) -> str:
    """The gravest finding and how many others there are; else the tensor that weighs most."""
    findings = step.verdict.findings
    if findings:
        first, others = findings[0], len(findings) - 1
        more = f"; {others} more" if others else ""
        return f"{first.code} {first.name}: {sentence(first, step.verdict, LONGEST_LINE)}{more}"
    if step.top is None or step.top.share is None:
        return "ok"
    return f"ok  {100.0 * step.top.share:.1f}% {brief(step.top.name, LONGEST_NAME)}"


def _figure(value: float) -> str:
    return significant(value, CELL_DIGITS).ljust(_FIGURE_WIDTH)


def finding_json(finding: Finding, step: Step | None) -> str:
    """A finding as a line of strict JSON, with the step that it is about."""
    number, path = (None, None) if step is None else (step.number, step.path)
    return encode({"step": number, "path": path, **finding_fields(finding)}) + "\n"
