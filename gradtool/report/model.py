"""What reporters are given: results that were computed elsewhere, and how to show them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from gradtool.core.clip.outcome import ClipOutcome
from gradtool.core.measurement import Measurement, Summary, TensorMeasurement
from gradtool.core.shapes.rows import RowMeasurement
from gradtool.errors import SeveralCheckpointsError

if TYPE_CHECKING:  # `inspect` need not load the types of other commands
    from gradtool.core.comparing.difference import Difference
    from gradtool.core.judging.verdict import CheckOutcome
    from gradtool.core.trends.trend import Trend
    from gradtool.formats.known import KnownFormat

DEFAULT_ROWS = 40
"""Rows that people are shown without --all: about a screen."""

SHOWN_ROWS = 10
"""Rows of one tensor that people are shown without --all."""


@dataclass(frozen=True, slots=True)
class ClipPreview:
    """The factor that clipping to `max_norm` would multiply by; None where there is no total."""

    max_norm: float
    eps: float
    clip_coef: float | None


@dataclass(frozen=True, slots=True)
class RowTable:
    """A tensor, and some of its rows: those that are not finite first, then the largest."""

    tensor: TensorMeasurement
    rows: tuple[RowMeasurement, ...]


@dataclass(frozen=True, slots=True)
class InspectReport:
    """A measurement of `inspect`, and which of its figures to report.

    Attributes:
        measurement: all figures.
        rows: the tensors to list, sorted, only the first of them with `--top`.
        groups: the groups of `--group-by`; empty without it.
        clip: the preview of `--max-norm`; None without it.
        rms: whether people are shown root mean squares.
        order: of the rows, after the word "in"; None where they are sorted by a figure or a name.
        by_row: the tensors of which rows were told apart, with those to list; empty without
            `--rows`.
        is_cut: whether `--top` said how many to list, so that these are shown, however many.
    """

    measurement: Measurement
    rows: tuple[TensorMeasurement, ...]
    groups: tuple[Summary, ...] = ()
    clip: ClipPreview | None = None
    rms: bool = False
    order: str | None = None
    by_row: tuple[RowTable, ...] = ()
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Style:
    """How reports for people look; those for programs ignore it.

    Attributes:
        width: columns to fit lines into; None for lines of any length.
        colour: whether ANSI sequences may be written.
        quiet: totals and findings only.
        show_all: every row and every name, however many.
        verbose: what was done by which settings too.
        bars: a bar for each tensor's share of the total.
        in_python: whether a notebook or rich shows it, where nothing is said of options.
    """

    width: int | None = None
    colour: bool = False
    quiet: bool = False
    show_all: bool = False
    verbose: bool = False
    bars: bool = False
    in_python: bool = False

    def shown(self, report: InspectReport) -> Sequence[TensorMeasurement]:
        """The rows to show: none if `quiet`, and beside groups only those that were asked for."""
        if self.quiet:
            return ()
        if self.show_all or report.is_cut:
            return report.rows
        return () if report.groups else report.rows[:DEFAULT_ROWS]


@dataclass(frozen=True, slots=True)
class TrendReport:
    """A trend, and whether CSV has a row for each tensor of a step, not one for each step."""

    trend: Trend
    long: bool = False


@dataclass(frozen=True, slots=True)
class Picking:
    """The command that takes one of the checkpoints of a list.

    Attributes:
        verb: what it does with that: "read", "clip".
        command: its name.
        options: what stands after the path, made for a shell; "" for nothing.
    """

    verb: str
    command: str
    options: str = ""


Reporter: TypeAlias = Callable[[Sequence[InspectReport], Style], str]
"""Renders all reports of `inspect` as one text, which ends in a newline."""

ClipReporter: TypeAlias = Callable[[ClipOutcome, Style], str]
"""The same for the outcome of `clip`."""

CheckReporter: TypeAlias = "Callable[[CheckOutcome, Style], str]"
"""The same for the outcome of `check`."""

DiffReporter: TypeAlias = "Callable[[Difference, Style], str]"
"""The same for the outcome of `diff`."""

TrendReporter: TypeAlias = Callable[[TrendReport, Style], str]
"""The same for the outcome of `trend`."""

ListingReporter: TypeAlias = Callable[[Sequence[SeveralCheckpointsError], Style, Picking], str]
"""The same for lists of the checkpoints that a path holds, and the command that takes one."""

FormatsReporter: TypeAlias = "Callable[[Sequence[KnownFormat], Style], str]"
"""The same for the formats that gradtool knows."""
