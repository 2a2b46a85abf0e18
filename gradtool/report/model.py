"""What a reporter is given: figures that were computed elsewhere, and how to show them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from gradtool.core.clip.outcome import ClipOutcome
from gradtool.core.measurement import Measurement, Summary, TensorMeasurement

if TYPE_CHECKING:  # which needs all that a policy is made of, and `inspect` does not
    from gradtool.core.judging.verdict import CheckOutcome

DEFAULT_ROWS = 40
"""Tensors that people are shown unless they ask for all: about a screen."""


@dataclass(frozen=True, slots=True)
class ClipPreview:
    """What clipping to `max_norm` would multiply by; None where there is no one total."""

    max_norm: float
    eps: float
    clip_coef: float | None


@dataclass(frozen=True, slots=True)
class InspectReport:
    """A measurement and the parts of it that were asked for.

    Attributes:
        measurement: everything there is to say.
        rows: the tensors to list, sorted, and cut where `--top` says so.
        groups: the roll-up, empty where none was asked for.
        clip: what clipping would do, None where nobody asked.
    """

    measurement: Measurement
    rows: tuple[TensorMeasurement, ...]
    groups: tuple[Summary, ...] = ()
    clip: ClipPreview | None = None


@dataclass(frozen=True, slots=True)
class Style:
    """How reports for people look; those for programs ignore it.

    Attributes:
        width: columns to fit lines into; None for as many as it takes.
        colour: whether ANSI sequences may be written.
        quiet: totals and findings only.
        show_all: every row and every name, however many.
    """

    width: int | None = None
    colour: bool = False
    quiet: bool = False
    show_all: bool = False

    def shown(self, report: InspectReport) -> Sequence[TensorMeasurement]:
        """The rows of `report` to show; a roll-up is asked for in order not to read them."""
        if self.quiet:
            return ()
        if self.show_all:
            return report.rows
        return () if report.groups else report.rows[:DEFAULT_ROWS]


Reporter: TypeAlias = Callable[[Sequence[InspectReport], Style], str]
"""Text of a whole result, ending in a newline."""

ClipReporter: TypeAlias = Callable[[ClipOutcome, Style], str]
"""The same of what clipping did."""

CheckReporter: TypeAlias = "Callable[[CheckOutcome, Style], str]"
"""The same of verdicts."""
