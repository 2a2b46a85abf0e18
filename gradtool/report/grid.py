"""Tables without their look: which columns there are, and the text of each cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from gradtool.core.figures import dimensions, norm_name, share, significant, tally
from gradtool.core.measurement import Measurement, Summary, TensorMeasurement, rms_of
from gradtool.core.stats import TensorStats
from gradtool.report.escaping import brief

CELL_DIGITS = 5
DIGEST_DIGITS = 16
"""Hexadecimal digits of a digest that people are shown: enough that no two are alike by chance."""

_WIDEST_BAR = 10
_EIGHTHS = ("", *(chr(0x2590 - count) for count in range(1, 8)))
"""Parts of a column, filled from the left: blocks of Unicode."""

Mood: TypeAlias = Literal["plain", "healthy", "notable", "alarming", "minor"]
"""How much attention a row or line deserves."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Row:
    """The cells of a row, and how much attention it deserves."""

    cells: tuple[str, ...]
    mood: Mood = "plain"


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: headers, whether each column is numeric (to be aligned right), rows.

    `shortened` are the columns that are cut where lines are too long: names, and no figures.
    """

    headers: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[Row, ...]
    shortened: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class _Column(Generic[Item]):
    header: str
    cell: Callable[[Item], str]
    numeric: bool = True


def tensor_grid(
    measurement: Measurement,
    tensors: Sequence[TensorMeasurement],
    *,
    bars: bool = False,
    rms: bool = False,
) -> Grid:
    """A row for each of `tensors`, which are some of `measurement`'s.

    With `bars` there is one of each tensor's share of the total, where shares add up; with `rms`
    the root mean square of each.
    """
    columns: list[_Column[TensorMeasurement]] = [_Column("name", _label, numeric=False)]
    if len(dtypes(measurement)) > 1:
        columns.append(_Column("dtype", lambda tensor: tensor.spec.dtype.name, numeric=False))
    columns.append(_Column("shape", _shape, numeric=False))
    columns.extend(_figures(measurement, tensors, lambda tensor: tensor.stats, rms=rms))
    if bars and tensors and measurement.share(tensors[0]) is not None:
        columns.append(_Column("share", lambda one: _bar(measurement.share(one)), numeric=False))
    if any(tensor.digest for tensor in tensors):
        columns.append(_Column("SHA-256", _digest, numeric=False))
    return _fill(columns, tensors, _tensor_mood)


def section_grid(measurement: Measurement, *, rms: bool = False) -> Grid:
    """A row for each section, with what it holds."""
    sections = measurement.sections
    columns: list[_Column[Summary]] = [
        _Column("section", lambda section: brief(section.name) or "(none)", numeric=False),
        _Column("holds", lambda section: section.kind or "", numeric=False),
        *_sizes(),
        *_figures(
            measurement,
            sections,
            lambda section: section.stats,
            lambda section: section.has_norm,
            rms=rms,
        ),
    ]
    return _fill(columns, sections, lambda section: _stats_mood(section.stats))


def group_grid(measurement: Measurement, groups: Sequence[Summary], *, rms: bool = False) -> Grid:
    """A row for each group of a roll-up."""
    columns: list[_Column[Summary]] = [
        _Column("group", lambda group: brief(group.name), numeric=False),
        *_sizes(),
        *_figures(
            measurement,
            groups,
            lambda group: group.stats,
            lambda group: group.has_norm,
            rms=rms,
        ),
    ]
    return _fill(columns, groups, lambda group: _stats_mood(group.stats))


def dtypes(measurement: Measurement) -> tuple[str, ...]:
    """Names of the dtypes that occur, as the file lists them."""
    return tuple(dict.fromkeys(tensor.spec.dtype.name for tensor in measurement.tensors))


def magnitude_name(measurement: Measurement) -> str:
    """`max |g|` for gradients, `max |x|` where weights or optimizer state are among the tensors."""
    mixed = any(section.kind in ("weights", "optimizer") for section in measurement.sections)
    return "max |x|" if mixed else "max |g|"


def _sizes() -> tuple[_Column[Summary], ...]:
    return (
        _Column("tensors", lambda summary: f"{summary.tensors:,}"),
        _Column("elements", lambda summary: f"{summary.stats.numel:,}"),
    )


def _figures(
    measurement: Measurement,
    items: Sequence[Item],
    stats_of: Callable[[Item], TensorStats],
    has_norm: Callable[[Item], bool] = lambda _: True,
    *,
    rms: bool,
) -> Iterator[_Column[Item]]:
    def column(header: str, cell: Callable[[TensorStats], str]) -> _Column[Item]:
        return _Column(header, lambda item: cell(stats_of(item)))

    def occurs(count: Callable[[TensorStats], int]) -> bool:
        return any(count(stats_of(item)) for item in items)

    yield _Column(
        norm_name(measurement.norm_type),
        lambda item: significant(stats_of(item).norm, CELL_DIGITS) if has_norm(item) else "",
    )
    if rms:
        yield _Column("RMS", lambda item: _rms(stats_of(item)) if has_norm(item) else "")
    yield column(magnitude_name(measurement), lambda stats: significant(stats.max_abs, CELL_DIGITS))
    if occurs(lambda stats: stats.zeros):
        yield column("zeros", lambda stats: share(stats.zeros, stats.numel))
    if occurs(lambda stats: stats.nan):
        yield column("NaN", lambda stats: tally(stats.nan))
    if occurs(lambda stats: stats.posinf):
        yield column("+Inf", lambda stats: tally(stats.posinf))
    if occurs(lambda stats: stats.neginf):
        yield column("-Inf", lambda stats: tally(stats.neginf))


def _fill(
    columns: Sequence[_Column[Item]], items: Sequence[Item], mood: Callable[[Item], Mood]
) -> Grid:
    cells = [column.cell for column in columns]
    return Grid(
        headers=tuple(column.header for column in columns),
        numeric=tuple(column.numeric for column in columns),
        rows=tuple(Row(tuple(cell(item) for cell in cells), mood(item)) for item in items),
    )


def _bar(share: float | None) -> str:
    """A bar as long as a share, to an eighth of a column."""
    eighths = round((share or 0.0) * _WIDEST_BAR * 8)
    return "\u2588" * (eighths // 8) + _EIGHTHS[eighths % 8]


def _rms(stats: TensorStats) -> str:
    rms = rms_of(stats)
    return "-" if rms is None else significant(rms, CELL_DIGITS)


def _label(tensor: TensorMeasurement) -> str:
    alias_of = tensor.alias_of
    return brief(tensor.name if alias_of is None else f"{tensor.name} = {alias_of}")


def _shape(tensor: TensorMeasurement) -> str:
    return brief(dimensions(tensor.spec.shape))


def _digest(tensor: TensorMeasurement) -> str:
    return "-" if tensor.digest is None else tensor.digest[:DIGEST_DIGITS]


def _tensor_mood(tensor: TensorMeasurement) -> Mood:
    return "minor" if tensor.alias_of is not None else _stats_mood(tensor.stats)


def _stats_mood(stats: TensorStats) -> Mood:
    return "alarming" if stats.nonfinite else "plain"
