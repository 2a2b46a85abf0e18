"""Which tensors a diagnosis is about, in words."""

from __future__ import annotations

from collections.abc import Sequence

from gradtool.core.comparing.difference import TensorDifference
from gradtool.core.figures import counted, some
from gradtool.core.order.layers import layers_text, split_name
from gradtool.core.order.patterns import patterns
from gradtool.rules.diagnosing.evidence import Evidence, is_dead

_MOST_NAMES = 2
_MOST_PATTERNS = 2
_MOST_LAYERS = 3
_LONGEST = 100
"""Characters of patterns, of which a person reads no more."""


def which(tensors: Sequence[TensorDifference], evidence: Evidence) -> str:
    """The names of few tensors, patterns or layers of many, or how many there are and the first."""
    count = counted(len(tensors), "tensor")
    return together(tensors, evidence) or f"{count} ({tensors[0].name!r:.80} the first)"


def together(tensors: Sequence[TensorDifference], evidence: Evidence) -> str | None:
    """Names, patterns or layers, where they are few; None where there is nothing in common."""
    names = [tensor.name for tensor in tensors]
    if len(names) <= _MOST_NAMES:
        return some(names)
    found = patterns(names, [pair.name for pair in evidence.pairs])
    if len(found) <= _MOST_PATTERNS:
        text = " and ".join(f"{one.text} ({one.extent[3:]}{one.which})" for one in found)
        if len(text) <= _LONGEST:
            return text
    numbers = [split_name(name).number for name in names]
    layers = {number for number in numbers if number is not None}
    if None in numbers or len(layers) > _MOST_LAYERS:
        return None
    return f"{counted(len(names), 'tensor')} of {layers_text(layers)}"


def scope(tensors: Sequence[TensorDifference], evidence: Evidence, how: str = "otherwise") -> str:
    """`in all 14 tensors`, `in 'w'; the other 13 tensors agree`, and `how` more of them differ."""
    chosen = {id(tensor) for tensor in tensors}
    rest = [pair for pair in evidence.pairs if id(pair) not in chosen]
    tiny = [pair for pair in rest if not pair.same and id(pair) in evidence.negligible]
    idle = {id(pair) for pair in tiny} | {id(pair) for pair in rest if pair.same and is_dead(pair)}
    rest = [pair for pair in rest if id(pair) not in idle]
    beside = f" ({len(tiny):,} more {'is' if len(tiny) == 1 else 'are'} next to 0)" if tiny else ""
    if not rest:
        every = f"all {counted(len(tensors), 'tensor')}" if len(evidence.pairs) > 1 else ""
        some_zero = " that are not 0" if len(idle) > len(tiny) else ""
        return f"in {every or some([tensors[0].name])}{some_zero}{beside}"
    others = [pair for pair in rest if not pair.same]
    is_most = 2 * len(tensors) > len(evidence.pairs) and together(others, evidence) is not None
    where = f"{len(tensors):,} of {len(evidence.pairs):,} tensors"
    where = f"in {where if is_most and others else which(tensors, evidence)}{beside}"
    if others:
        unread = sum(pair.name in evidence.look.unread for pair in others)
        left = f", of which {unread:,} were not read again" if unread else ""
        verb = "differs" if len(others) == 1 else "differ"
        named = together(others, evidence) or f"{len(others):,} more"
        return f"{where}; {named} {verb} {how}{left}"
    return f"{where}; {the_rest(len(rest))}"


def the_rest(count: int) -> str:
    """`the other 13 tensors agree`."""
    return "the other tensor agrees" if count == 1 else f"the other {count:,} tensors agree"
