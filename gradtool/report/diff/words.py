"""What is said of a difference, in the same words in every format for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from gradtool.core.comparing.roll_up import PairSummary, alike
from gradtool.core.comparing.words import details, not_compared, other_details
from gradtool.core.figures import (
    byte_size,
    counted,
    short,
    significant,
    some,
)
from gradtool.core.order.layers import layers_text, split_name
from gradtool.core.order.patterns import Pattern
from gradtool.report.escaping import brief
from gradtool.report.grid import CELL_DIGITS
from gradtool.shortening import LONGEST_NAME

if TYPE_CHECKING:
    from gradtool.core.comparing.difference import (
        Difference,
        DumpSide,
    )

FEW: Final = 3
"""Tensors that differ of which people see without a roll-up what they have in common."""

PATTERNS: Final = 10
"""Lines of a roll-up that people are shown without --all."""


def origin(side: DumpSide) -> str:
    """What a dump is: path, format, size."""
    scale = (
        "" if side.loss_scale == 1.0 else f", divided by a loss scale of {short(side.loss_scale)}"
    )
    files = counted(len(side.files), "file")
    where = f"{side.format}, {files}, {byte_size(side.nbytes)}" if side.files else "in memory"
    return f"{brief(side.path)}: {where}{scale}"


def first_sentence(difference: Difference, fitted: Callable[[str], str] = brief) -> str | None:
    """The first tensor that differs, its name `fitted`, and how."""
    first = next((tensor for tensor in difference.tensors if not tensor.same), None)
    return None if first is None else f"{fitted(first.name)}: {details(first)}"


def rolled_up(difference: Difference, *, show_all: bool) -> Iterator[str]:
    """Which layers differ, in which tensors and how much; nothing where few tensors do."""
    apart = [tensor for tensor in difference.tensors if not tensor.same]
    if len(apart) <= FEW:
        return
    found = alike(difference.tensors)
    for pattern, summary in found if show_all else found[:PATTERNS]:
        worst = summary.worst_layer if pattern.layers else None
        most = ""
        if worst is not None and worst.rel_l2 is not None:
            layer = layers_text(split_name(one.name).number or 0 for one in worst.pairs)
            most = f", most in {layer}: {significant(worst.rel_l2, CELL_DIGITS)}"
        yield f"{_place(pattern)}: {figures(summary)}{most}"
    if not show_all and (left_out := len(found) - PATTERNS) > 0:
        yield f"… {counted(left_out, 'more pattern')} (--all shows them)"


def _place(pattern: Pattern) -> str:
    """Which tensors a pattern stands for."""
    if len(pattern.names) == 1:
        return brief(pattern.names[0], LONGEST_NAME)
    return f"{brief(pattern.text, LONGEST_NAME)} {pattern.extent}{pattern.which}"


def total(sections: Sequence[PairSummary]) -> str | None:
    """Figures of all pairs together; None where they are of several sections, or the same."""
    if len(sections) != 1 or not sections[0].apart:
        return None
    (only,) = sections
    if not only.compared:
        return figures(only)
    a, b = (significant(one.norm, CELL_DIGITS) for one in only.sides)
    angle = "" if only.cosine is None else f", cosine {significant(only.cosine, CELL_DIGITS)}"
    return f"{figures(only)}{angle}, norm {a} in A and {b} in B"


def figures(summary: PairSummary) -> str:
    """How far apart several pairs are together, as far as they can be compared."""
    parts = [
        f"{name} {significant(value, CELL_DIGITS)}"
        for name, value in (
            ("max |b-a|", summary.max_abs_diff),
            ("rel L2", summary.rel_l2),
        )
        if value is not None
    ]
    if left_out := len(summary.pairs) - summary.compared:
        parts.append(f"{counted(left_out, 'tensor')} not comparable")
    return ", ".join(parts)


def remarks(difference: Difference, *, with_reading: bool) -> Iterator[tuple[str, str]]:
    """Label and value of each conclusion, of names without a pair, and of notes.

    Those on how the dumps were read come `with_reading` only.
    """
    for one in difference.diagnosis:
        yield "diagnosis", f"{one.code} {one.name}: {brief(one.text)}"
    for side, names in (("A", difference.only_in_a), ("B", difference.only_in_b)):
        if names:
            yield f"only in {side}", brief(f"{counted(len(names), 'tensor')}: {some(names)}")
    for other in difference.others:
        if not other.identical:
            yield "other", f"{brief(other.name, LONGEST_NAME)}: {other_details(other)}"
    if difference.not_compared:
        yield "not compared", brief(not_compared(difference))
    said = notes(difference) if with_reading else _own_notes(difference)
    yield from (("note", brief(note)) for note in said)


def notes(difference: Difference) -> Iterator[str]:
    """What was assumed and counted in comparing both, and in reading each; as it is."""
    yield from _own_notes(difference)
    for label, dump in (("A", difference.a), ("B", difference.b)):
        yield from (f"{label}: {note}" for note in dump.notes)


def _own_notes(difference: Difference) -> Iterator[str]:
    same_nan = sum(t.distance.same_nan for t in difference.tensors if t.distance is not None)
    if same_nan:
        yield f"{same_nan:,} NaN have the same bits on both sides, and count as equal"
    yield from difference.notes
