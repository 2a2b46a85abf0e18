"""Which tensors a diagnosis is about, in words."""

from __future__ import annotations

from collections.abc import Sequence

from gradtool.core.comparing.difference import TensorDifference
from gradtool.core.figures import counted, some
from gradtool.core.order.patterns import patterns
from gradtool.rules.diagnosing.evidence import Evidence

_MOST_NAMES = 2
_MOST_PATTERNS = 2


def which(tensors: Sequence[TensorDifference], evidence: Evidence) -> str:
    """The names of few tensors, the patterns of many, or how many there are and the first."""
    names = [tensor.name for tensor in tensors]
    if len(names) <= _MOST_NAMES:
        return some(names)
    found = patterns(names, [pair.name for pair in evidence.pairs])
    if len(found) <= _MOST_PATTERNS:
        return " and ".join(f"{one.text} ({one.extent[3:]}{one.which})" for one in found)
    return f"{counted(len(names), 'tensor')}, first {names[0]!r:.80}"


def scope(tensors: Sequence[TensorDifference], evidence: Evidence) -> str:
    """`in all 14 tensors`, `in 'w'; the other 13 tensors agree`."""
    rest = len(evidence.pairs) - len(tensors)
    dead = sum(is_dead(pair) for pair in evidence.pairs if pair.same)
    if len(tensors) == 1 == len(evidence.pairs):
        return f"in {some([tensors[0].name])}"
    if rest == dead:
        some_zero = " that are not 0" if dead else ""
        return f"in all {counted(len(tensors), 'tensor')}{some_zero}"
    where = f"in {which(tensors, evidence)}"
    if len(tensors) < len(evidence.differing):
        others = len(evidence.differing) - len(tensors)
        verb = "differs" if others == 1 else "differ"
        return f"{where}; {counted(others, 'more tensor')} {verb} otherwise"
    verb = "agrees" if rest == 1 else "agree"
    return f"{where}; the other {counted(rest, 'tensor')} {verb}"


def is_dead(pair: TensorDifference) -> bool:
    """Whether no element of both sides is finite and not 0."""
    found = pair.distance
    return found is not None and not found.a.max_abs and not found.b.max_abs
