"""What is said of a difference wherever it is told, in reports and in findings of `check`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from gradtool.core.comparing.difference import Difference, TensorDifference
from gradtool.core.comparing.distance import Distance, Number
from gradtool.core.comparing.others import OtherDifference
from gradtool.core.comparing.tolerance import Tolerance
from gradtool.core.figures import (
    counted,
    dimensions,
    first_of,
    index_text,
    nonfinite_counts,
    short,
    significant,
)

_DIGITS: Final = 5
"""Digits of a figure that only says how far it is."""


def sentence(difference: Difference) -> str:
    """What differs, first of all."""
    pairs = difference.tensors
    apart = [tensor for tensor in pairs if not tensor.same]
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
    if difference.not_compared:
        parts.append(f"{counted(len(difference.not_compared), 'tensor')} not compared")
    if not parts:
        return f"identical and dead: {_count(pairs)}"
    if not pairs:
        parts.insert(0, "no names in common")
    elif not apart:
        agree = "the only pair agrees" if len(pairs) == 1 else f"all {len(pairs):,} pairs agree"
        parts.insert(0, agree)
    return ", ".join(parts)


def not_compared(difference: Difference) -> str:
    """What both dumps hold and nothing compares, with the reasons."""
    found = [f"{item.name!r:.80} ({item.dtype}: {item.reason})" for item in difference.not_compared]
    return f"may differ: {first_of(found)}"


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
        away = "infinite" if tensor.rel_l2 is None else significant(tensor.rel_l2, _DIGITS)
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


def other_details(other: OtherDifference) -> str:
    """How two tensors that are no gradients differ."""
    kinds = [f"{one.dtype.name} {dimensions(one.shape)}" for one in (other.a, other.b)]
    if other.differing is None or other.first_differing is None:
        return f"{kinds[0]} in A, {kinds[1]} in B"
    verb = "differs" if other.differing == 1 else "differ"
    first = index_text(other.first_differing)
    elements = counted(other.a.numel, "element")
    return f"{other.differing:,} of {elements} {verb}, first at {first} ({other.a.dtype.name})"
