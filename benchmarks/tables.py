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


def limit(what: str, value: float, bound: float, unit: str = "") -> str:
    """One line: a figure, its bound, and whether it is reached."""
    if math.isnan(value):
        verdict = "not measured"
    elif value <= bound:
        verdict = "reached"
    else:
        verdict = f"missed by {value - bound:.3g}{unit}"
    wanted = figure(bound, ".3g")
    return f"  {what}: {figure(value, '.3g')}{unit}, at most {wanted}{unit}: {verdict}"
