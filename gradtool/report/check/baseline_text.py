"""What differs between two baselines, for people at a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from gradtool.core.figures import dimensions, significant
from gradtool.core.judging.baseline import Baseline, BaselineTensor, NormRange
from gradtool.report.escaping import brief
from gradtool.report.grid import CELL_DIGITS, Grid, Row
from gradtool.report.layout import MOODS, Painter, grid_lines
from gradtool.report.model import DEFAULT_ROWS, Style
from gradtool.report.words import left_out

_HEADERS = ("name", "was", "norm before", "after")


def difference(old: Baseline, new: Baseline, style: Style) -> str:
    """A table with a row for each tensor that differs, and one for the total if it does."""
    painter = Painter(colour=style.colour)
    rows = list(_rows(old, new))
    if not rows:
        return "nothing changed\n"
    shown = rows if style.show_all else rows[:DEFAULT_ROWS]
    lines = list(grid_lines(Grid(_HEADERS, (False,) * 4, tuple(shown)), style.width, painter))
    if hidden := len(rows) - len(shown):
        lines.append(painter.paint(left_out(f"{hidden:,} more", style), MOODS["minor"]))
    return "\n".join(lines) + "\n\n"


def _rows(old: Baseline, new: Baseline) -> Iterator[Row]:
    if old.total != new.total:
        yield Row(("(total)", "", _norm(old.total), _norm(new.total)))
    for name in {**old.tensors, **new.tensors}:
        before, after = old.tensors.get(name), new.tensors.get(name)
        if before != after:
            norms = [_norm(tensor.norm) if tensor else "-" for tensor in (before, after)]
            yield Row((brief(name), _change(before, after), *norms))


def _change(before: BaselineTensor | None, after: BaselineTensor | None) -> str:
    if before is None:
        return "new"
    if after is None:
        return "gone"
    old_values = [before.dtype] if before.dtype != after.dtype else []
    if before.shape != after.shape:
        old_values.append(brief(dimensions(before.shape)))
    return " ".join(old_values)


def _norm(norm: NormRange) -> str:
    low, high = significant(norm.low, CELL_DIGITS), significant(norm.high, CELL_DIGITS)
    return low if low == high else f"{low} to {high}"
