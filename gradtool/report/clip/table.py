"""The outcome of `clip` for people at a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gradtool.core.clip.groups import GroupFigures
from gradtool.core.clip.outcome import ClipOutcome, Clipped
from gradtool.core.clip.plan import ClipRequest, one_total
from gradtool.core.figures import counted, dimensions, norm_name, precise, short, significant
from gradtool.core.measurement import TensorMeasurement
from gradtool.report.escaping import brief
from gradtool.report.grid import CELL_DIGITS, Grid, Mood, Row
from gradtool.report.inspect.table import labelled, title
from gradtool.report.layout import HEADER, MOODS, Painter, grid_lines, paragraph
from gradtool.report.model import DEFAULT_ROWS, Style
from gradtool.report.words import left_out, skipped_summary

_HEADERS: Final = ("name", "shape", "norm before", "after")
_GROUP_HEADERS: Final = ("group", "tensors", "max_norm", "clip_coef", "norm before", "after")


def render(outcome: ClipOutcome, style: Style) -> str:
    """The tensors that changed, unless all have one factor, and the norm before and after."""
    painter = Painter(colour=style.colour)
    return "\n".join(_lines(outcome, style, painter)) + "\n"


def _lines(outcome: ClipOutcome, style: Style, painter: Painter) -> Iterator[str]:
    if outcome.ranks:
        yield from _title_of_ranks(outcome, style, painter)
        yield ""
        yield from grid_lines(_grid_of_ranks(outcome), style.width, painter)
        yield ""
    else:
        yield from title(outcome.before, style, painter)
        yield ""
        if outcome.clip_coef is None and not (outcome.request.groups or style.quiet):
            yield from _changed(outcome, style, painter)
    if outcome.request.groups:
        yield from grid_lines(_grid_of_groups(outcome), style.width, painter)
        yield ""
    yield from labelled(_figures(outcome), style, painter)
    for line in labelled([_written(outcome)], style, painter):
        yield painter.paint(line, MOODS["healthy"]) if outcome.written else line
    if not style.quiet:
        items = [item for part in outcome.parts for item in part.before.skipped]
        skipped = skipped_summary(items, show_all=style.show_all)
        yield from labelled((("skipped", line) for line in skipped), style, painter)
    notes = (("note", brief(note)) for note in outcome.notes)
    yield from labelled(notes, style, painter)


def _title_of_ranks(outcome: ClipOutcome, style: Style, painter: Painter) -> Iterator[str]:
    path = brief(outcome.path)
    ranks = counted(len(outcome.ranks), "rank")
    norms = "norms" if outcome.request.groups else "norm"
    text = f"{path}: {ranks}, each clipped by its own {norms}"
    first, *following = paragraph(text, style.width, "  ")
    yield first.replace(path, painter.paint(path, HEADER), 1)
    yield from following


def _grid_of_ranks(outcome: ClipOutcome) -> Grid:
    """A row for each rank, all of them: what was written must not go unsaid."""
    columns = ["path", "rank", "clip_coef", "norm before", *(["after"] if outcome.written else [])]
    rows = []
    for one in outcome.ranks:
        coef = "-" if one.clip_coef is None else precise(one.clip_coef)
        norms = [one.finite_norm_before, *([] if one.after is None else [one.finite_norm_after])]
        figures = [significant(norm, CELL_DIGITS) for norm in norms if norm is not None]
        alarms = one_total(one.before).stats.nonfinite
        mood: Mood = "alarming" if alarms else "plain"
        cells = (brief(one.before.path), _number_of(one), coef, *figures)
        rows.append(Row(cells, mood))
    return Grid(tuple(columns), tuple(at > 0 for at, _ in enumerate(columns)), tuple(rows))


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
    if hidden := len(changed) - len(shown):
        more = left_out(f"{hidden:,} more", style, all_in_rows=True)
        yield painter.paint(more, MOODS["minor"])
    yield ""


def _grid_of_groups(outcome: ClipOutcome) -> Grid:
    """A row for each group, and one for the rest if there is any; of each rank that has its own."""
    shown = [
        _group_cells(part, group)
        for part in outcome.parts
        for group in part.groups
        if group.pattern is not None or group.tensors
    ]
    headers = _GROUP_HEADERS if outcome.written else _GROUP_HEADERS[:-1]
    columns = ("rank", *headers) if outcome.ranks else headers
    return Grid(columns, tuple(one != "group" for one in columns), tuple(map(Row, shown)))


def _group_cells(part: Clipped, group: GroupFigures) -> tuple[str, ...]:
    bound = "as it is" if group.max_norm is None else short(group.max_norm)
    figures = [group.clip_coef, group.norm_before]
    figures += [] if group.norm_after is None else [group.norm_after]
    return (
        *([_number_of(part)] if part.rank else []),
        "(the rest)" if group.pattern is None else brief(group.pattern),
        f"{group.tensors:,}",
        bound,
        *(significant(figure, CELL_DIGITS) for figure in figures),
    )


def _number_of(part: Clipped) -> str:
    """The rank by its number alone."""
    return part.rank.removeprefix("rank ")


def _row(before: TensorMeasurement, after: TensorMeasurement | None) -> Row:
    norms = [tensor.finite_norm for tensor in (before, after) if tensor is not None]
    figures = [significant(norm, CELL_DIGITS) for norm in norms]
    mood: Mood = "alarming" if before.stats.nonfinite else "plain"
    return Row((brief(before.name), brief(dimensions(before.spec.shape)), *figures), mood)


def _figures(outcome: ClipOutcome) -> Iterator[tuple[str, str]]:
    yield "clip", ", ".join(_request(outcome.request))
    if outcome.step is not None:
        yield "step", f"{outcome.step:,} of the training"
    if outcome.loss_scale is None:
        yield "loss scale", "ranks note different ones: norms and bounds are without them"
    elif outcome.loss_scale != 1.0:
        yield "loss scale", f"{short(outcome.loss_scale)}: norms and bounds are without it"
    if not outcome.ranks:
        yield from _norms(outcome.whole)
    label = "to change" if outcome.dry_run else "changed"
    yield label, f"{outcome.tensors_changed:,} of {counted(outcome.tensors, 'tensor')}"
    if outcome.nonfinite_replaced:
        label = "to replace" if outcome.dry_run else "replaced"
        yield label, f"{counted(outcome.nonfinite_replaced, 'non-finite element')} by 0"


def _norms(whole: Clipped) -> Iterator[tuple[str, str]]:
    """The factor, and the norms before and after."""
    if whole.clip_coef is not None:
        unchanged = "" if whole.plan.changed else ": nothing changes"
        yield "clip_coef", precise(whole.clip_coef) + unchanged
    pairs = [(norm_name(whole.before.norm_type), whole.norm_before, whole.norm_after)]
    if whole.norm_before != whole.finite_norm_before:
        pairs.append(("finite norm", whole.finite_norm_before, whole.finite_norm_after))
    for label, norm, norm_after in pairs:
        comparison = "" if norm_after is None else f" before, {precise(norm_after)} after"
        yield label, precise(norm) + comparison


def _request(request: ClipRequest) -> Iterator[str]:
    if request.clip_value is not None:
        yield f"clip_value {short(request.clip_value)}"
    if request.groups:
        yield f"{counted(len(request.groups), 'group')}, each by its own norm"
    if request.agc is not None:
        yield f"agc {short(request.agc)} of the norm of each unit of the weights"
    if request.max_norm is not None:
        rest = " for the rest" if request.groups else ""
        yield f"max_norm {short(request.max_norm)}{rest}"
    if request.clip_value is None:
        yield f"eps {short(request.eps)}"
    if request.total_norm is not None:
        yield f"total_norm {short(request.total_norm)}"
    if request.per_tensor:
        yield "each tensor by its own norm"


def _written(outcome: ClipOutcome) -> tuple[str, str]:
    if outcome.written:
        return "written", brief(outcome.output or "")
    return "not written", "a dry run" if outcome.dry_run else "nothing had to change"
