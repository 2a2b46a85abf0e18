"""What is said of a difference, in the same words in every format for people."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from gradtool.core.comparing.roll_up import PairSummary, alike
from gradtool.core.figures import (
    byte_size,
    counted,
    dimensions,
    index_text,
    nonfinite_counts,
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
        TensorDifference,
    )
    from gradtool.core.comparing.distance import Distance, Number
    from gradtool.core.comparing.others import OtherDifference
    from gradtool.core.comparing.tolerance import Tolerance

FEW: Final = 3
"""Tensors that differ of which people see without a roll-up what they have in common."""

PATTERNS: Final = 10
"""Lines of a roll-up that people are shown without --all."""


def sentence(difference: Difference) -> str:
    """What differs, first of all."""
    pairs = difference.tensors
    apart = [tensor for tensor in pairs if not tensor.same]
    only = len(difference.only_in_a) + len(difference.only_in_b)
    if difference.same:
        if difference.identical:
            return f"identical: {_count(pairs)}, bit by bit"
        exact = sum(tensor.identical for tensor in pairs)
        return f"the same within {bounds(difference)}: {_count(pairs)}, {exact:,} identical"
    parts = []
    if apart:
        verb = "differs" if len(apart) == 1 else "differ"
        parts.append(f"{len(apart):,} of {counted(len(pairs), 'tensor')} {verb}")
    parts += [
        f"{counted(len(names), 'tensor')} only in {side}"
        for side, names in (("A", difference.only_in_a), ("B", difference.only_in_b))
        if names
    ]
    others = [one for one in difference.others if not one.identical]
    if others:
        verb = "differs" if len(others) == 1 else "differ"
        parts.append(f"{len(others):,} of {counted(len(difference.others), 'other tensor')} {verb}")
    if not apart and not only and not others:
        return f"identical and dead: {_count(pairs)}"
    if not apart:
        parts.insert(0, f"all {counted(len(pairs), 'pair')} agree")
    return ", ".join(parts)


def _count(pairs: Sequence[TensorDifference]) -> str:
    return f"{counted(len(pairs), 'tensor')}, {counted(sum(t.a.numel for t in pairs), 'element')}"


def bounds(difference: Difference) -> str:
    """The bounds that are in force."""
    if not difference.tolerances:
        return bounds_of(difference.tolerance)
    return f"the tolerances of {counted(len(difference.tolerances), 'pattern')}"


def bounds_of(tolerance: Tolerance) -> str:
    """The bounds on one tensor; empty where only equal bits are the same."""
    given = [
        f"{name} {short(value)}"
        for name, value in (
            ("rtol", tolerance.rtol),
            ("atol", tolerance.atol),
            ("max-rel-l2", tolerance.max_rel_l2),
            ("ulps", tolerance.ulps),
        )
        if value is not None
    ]
    return ", ".join([*given, *(["equal NaN"] if tolerance.equal_nan else [])])


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


def details(tensor: TensorDifference) -> str:
    """How two tensors differ: in how many elements, from where on, in what type."""
    return "; ".join(_details(tensor))


def _details(tensor: TensorDifference) -> Iterator[str]:
    if tensor.problem is not None:
        yield f"{tensor.problem}: {_kind(tensor)}"
        return
    if tensor.differing:
        verb = "differs" if tensor.differing == 1 else "differ"
        yield f"{tensor.differing:,} of {counted(tensor.a.numel, 'element')} {verb}"
    if tensor.first_differing is not None and tensor.first_values is not None:
        a, b = map(number_text, tensor.first_values)
        yield f"first at {index_text(tensor.first_differing)}, {a} in A and {b} in B"
    if tensor.a.dtype != tensor.b.dtype:
        yield f"{tensor.a.dtype.name} against {tensor.b.dtype.name}{_rounding(tensor)}"
    if tensor.distance is not None and tensor.distance.zero_signs:
        yield f"{tensor.distance.zero_signs:,} of them 0.0 against -0.0"
    yield from _nonfinite(tensor)
    if tensor.distance is not None and not tensor.tolerance.is_exact and not tensor.same:
        yield _beyond(tensor.distance, tensor)


def _nonfinite(tensor: TensorDifference) -> Iterator[str]:
    """What is not finite, where both sides have not as much of it."""
    if tensor.distance is None:
        return
    a, b = (nonfinite_counts(one) for one in (tensor.distance.a, tensor.distance.b))
    if a != b:
        told = [", ".join(counts) or "none" for counts in (a, b)]
        yield f"not finite: {told[0]} in A and {told[1]} in B"


def _beyond(distance: Distance, tensor: TensorDifference) -> str:
    """What is beyond the tolerance: elements, or the distance as a whole."""
    if distance.outside:
        what = f"{distance.outside:,} of them"
    else:
        away = "infinite" if tensor.rel_l2 is None else significant(tensor.rel_l2, CELL_DIGITS)
        what = f"rel L2 {away}"
    return f"{what} beyond {bounds_of(tensor.tolerance)}"


def _kind(tensor: TensorDifference) -> str:
    if tensor.a.shape != tensor.b.shape:
        return f"{dimensions(tensor.a.shape)} in A, {dimensions(tensor.b.shape)} in B"
    return f"{tensor.a.dtype.name} in A, {tensor.b.dtype.name} in B"


def _rounding(tensor: TensorDifference) -> str:
    return ", equal when rounded" if tensor.equal_when_rounded else ""


def number_text(value: Number) -> str:
    """A number with nine digits at most, which tell any two of float32 apart, and its sign."""
    if isinstance(value, complex):
        return f"{value:.9g}"
    text = f"{value:.9g}" if math.isfinite(value) else significant(value, 9)
    return f"{text}.0" if text.lstrip("-").isdigit() else text


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


def other_details(other: OtherDifference) -> str:
    """How two tensors that are no gradients differ."""
    kinds = [f"{one.dtype.name} {dimensions(one.shape)}" for one in (other.a, other.b)]
    if other.differing is None or other.first_differing is None:
        return f"{kinds[0]} in A, {kinds[1]} in B"
    verb = "differs" if other.differing == 1 else "differ"
    first = index_text(other.first_differing)
    elements = counted(other.a.numel, "element")
    return f"{other.differing:,} of {elements} {verb}, first at {first} ({other.a.dtype.name})"
