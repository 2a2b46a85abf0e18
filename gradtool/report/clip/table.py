"""The outcome of `clip` for people at a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gradtool.core.clip.outcome import ClipOutcome
from gradtool.core.clip.plan import ClipRequest
from gradtool.core.figures import counted, dimensions, norm_name, precise, short, significant
from gradtool.core.measurement import TensorMeasurement
from gradtool.report.escaping import brief
from gradtool.report.grid import CELL_DIGITS, Grid, Mood, Row
from gradtool.report.inspect.table import labelled, title
from gradtool.report.layout import MOODS, Painter, grid_lines
from gradtool.report.model import DEFAULT_ROWS, Style
from gradtool.report.words import skipped_summary

_HEADERS: Final = ("name", "shape", "norm before", "after")


def render(outcome: ClipOutcome, style: Style) -> str:
    """The tensors that changed, unless all have one factor, and the norm before and after."""
    painter = Painter(colour=style.colour)
    return "\n".join(_lines(outcome, style, painter)) + "\n"


def _lines(outcome: ClipOutcome, style: Style, painter: Painter) -> Iterator[str]:
    before = outcome.before
    yield from title(before, style, painter)
    yield ""
    if outcome.clip_coef is None and not style.quiet:
        yield from _changed(outcome, style, painter)
    yield from labelled(_figures(outcome), style, painter)
    if not style.quiet:
        skipped = skipped_summary(before.skipped, show_all=style.show_all)
        yield from labelled((("skipped", line) for line in skipped), style, painter)
    notes = (("note", brief(note)) for note in outcome.notes)
    yield from labelled(notes, style, painter)


def _changed(outcome: ClipOutcome, style: Style, painter: Painter) -> Iterator[str]:
    """A row for each tensor that changed, the one with the largest norm before first."""
    measured = () if outcome.after is None else outcome.after.tensors
    after = {tensor.name: tensor for tensor in measured}
    changed = [tensor for tensor in outcome.before.tensors if tensor.name in outcome.plan.changed]
    changed.sort(key=lambda tensor: tensor.finite_norm, reverse=True)
    shown = changed if style.show_all else changed[:DEFAULT_ROWS]
    if not shown:
        return
    rows = tuple(_row(tensor, after.get(tensor.name)) for tensor in shown)
    columns = 4 if after else 3
    grid = Grid(_HEADERS[:columns], (False, False, True, True)[:columns], rows)
    yield from grid_lines(grid, style.width, painter)
    if left_out := len(changed) - len(shown):
        yield painter.paint(f"… {left_out:,} more (--all shows them)", MOODS["minor"])
    yield ""


def _row(before: TensorMeasurement, after: TensorMeasurement | None) -> Row:
    norms = [tensor.finite_norm for tensor in (before, after) if tensor is not None]
    figures = [significant(norm, CELL_DIGITS) for norm in norms]
    mood: Mood = "alarming" if before.stats.nonfinite else "plain"
    return Row((brief(before.name), brief(dimensions(before.spec.shape)), *figures), mood)


def _figures(outcome: ClipOutcome) -> Iterator[tuple[str, str]]:
    request, before = outcome.request, outcome.before
    yield "clip", ", ".join(_request(request))
    if before.step is not None:
        yield "step", f"{before.step:,} of the training"
    if before.loss_scale != 1.0:
        yield "loss scale", f"{short(before.loss_scale)}: norms and bounds are without it"
    if outcome.clip_coef is not None:
        unchanged = "" if outcome.plan.changed else ": nothing changes"
        yield "clip_coef", precise(outcome.clip_coef) + unchanged
    pairs = [(norm_name(before.norm_type), outcome.norm_before, outcome.norm_after)]
    if outcome.norm_before != outcome.finite_norm_before:
        pairs.append(("finite norm", outcome.finite_norm_before, outcome.finite_norm_after))
    for label, norm, norm_after in pairs:
        comparison = "" if norm_after is None else f" before, {precise(norm_after)} after"
        yield label, precise(norm) + comparison
    label = "to change" if outcome.dry_run else "changed"
    yield label, f"{outcome.tensors_changed:,} of {counted(outcome.tensors, 'tensor')}"
    if outcome.nonfinite_replaced:
        label = "to replace" if outcome.dry_run else "replaced"
        yield label, f"{counted(outcome.nonfinite_replaced, 'non-finite element')} by 0"
    yield _written(outcome)


def _request(request: ClipRequest) -> Iterator[str]:
    if request.clip_value is not None:
        yield f"clip_value {short(request.clip_value)}"
    if request.max_norm is not None:
        yield f"max_norm {short(request.max_norm)}"
        yield f"eps {short(request.eps)}"
    if request.total_norm is not None:
        yield f"total_norm {short(request.total_norm)}"
    if request.per_tensor:
        yield "each tensor by its own norm"


def _written(outcome: ClipOutcome) -> tuple[str, str]:
    if outcome.written:
        return "written", brief(outcome.output or "")
    return "not written", "a dry run" if outcome.dry_run else "nothing had to change"
