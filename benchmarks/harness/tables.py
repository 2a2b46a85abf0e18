"""What is printed: figures, tables, and verdicts on limits."""

from __future__ import annotations

import math
from collections.abc import Sequence


def figure(value: float, form: str) -> str:
    """A number, or a dash where there is none."""
    return "-" if math.isnan(value) else format(value, form)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need, the first one to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in (heads, ["-" * width for width in widths], *rows)
    ]
    return "\n".join(lines)


def limit(what: str, value: float, bound: float, unit: str = "", *, judged: bool = True) -> str:
    """One line: a figure, the most that it may be, and whether it is reached."""
    return _line(what, value, f"at most {figure(bound, '.3g')}", unit, value - bound, judged)


def at_least(what: str, value: float, bound: float, unit: str = "", *, judged: bool = True) -> str:
    """One line: a figure, the least that it may be, and whether it is reached."""
    return _line(what, value, f"at least {figure(bound, '.3g')}", unit, bound - value, judged)


def _line(what: str, value: float, wanted: str, unit: str, excess: float, judged: bool) -> str:
    if math.isnan(excess):
        verdict = "not measured"
    elif not judged:
        verdict = "not judged"
    elif excess <= 0:
        verdict = "reached"
    else:
        verdict = f"missed by {excess:.3g}{unit}"
    return f"  {what}: {figure(value, '.3g')}{unit}, {wanted}{unit}: {verdict}"
