"""GT010: gradients that one layer lacks and its siblings have."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final

from gradtool.core.figures import counted
from gradtool.core.judging.limits import Limits
from gradtool.core.order.layers import split_name
from gradtool.core.order.structure import Make
from gradtool.core.tensors import ABSENT
from gradtool.rules.evidence import DumpRule, Evidence, Problem

_LEAST_LAYERS: Final = 4
_LEAST_TENSORS: Final = 3
_SHARE: Final = 8
"""One layer in so many may lack something by mistake; more are of another make."""


def _missing_in_layer(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    yield from _noted(evidence, limits)
    for stem, makes in evidence.named_structure.makes.items():
        yield from _unnoted(stem, makes, evidence, limits)


def _noted(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    """Parameters that the dump says to have no gradient, where most of their kind have one."""
    absent: defaultdict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for item in evidence.skipped:
        split = split_name(item.name)
        if item.reason == ABSENT and split.number is not None:
            absent[split.stem, split.rest][split.number] = item.name
    if not absent:
        return
    present: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for split in evidence.named_structure.splits:
        if split.number is not None:
            present[split.stem, split.rest].add(split.number)
    last = {stem: max(layers) for stem, layers in evidence.structure.stacks.items()}
    for kind, names in absent.items():
        siblings = len(names) + len(present[kind]) - 1
        for number, name in names.items():
            most = 2 * len(present[kind]) > siblings
            # A model may not use its last layers: what reads an earlier one leaves them out.
            if most and number <= last.get(kind[0], -1) and limits(name) is not None:
                others = f"{len(present[kind]):,} of {counted(siblings, 'tensor')}"
                yield Problem(f"has no gradient, and {others} of its kind have", name)


def _unnoted(
    stem: str, makes: dict[int, Make], evidence: Evidence, limits: Limits
) -> Iterator[Problem]:
    """Names that are not in the dump at all, where all but one or few layers have them.

    The first and the last layer often are of another make on purpose.
    """
    few = max(1, len(makes) // _SHARE)
    gaps = max(makes) - min(makes) + 1 - len(makes)
    if gaps > few or len(makes) < _LEAST_LAYERS - 1:
        return  # numbers are a file's: what is done must not grow with them
    make, of_it = Counter(makes.values()).most_common(1)[0]
    if of_it < max(_LEAST_LAYERS - 1, len(makes) / 2) or len(make) < _LEAST_TENSORS:
        return
    others = range(min(makes) + 1, max(makes))
    odd = [number for number in others if makes.get(number, frozenset()) < make]
    known = {item.name for item in evidence.skipped}
    for number in odd if len(odd) <= few else ():
        for rest, _ in sorted(make - makes.get(number, frozenset())):
            name = f"{stem}{number}{rest}"
            if name not in known and evidence.is_chosen(name) and limits(name) is not None:
                siblings = counted(of_it, "other layer")
                yield Problem(f"is not there, and {siblings} {_has(of_it)} such a gradient", name)


def _has(count: int) -> str:
    return "has" if count == 1 else "have"


RULES = (
    DumpRule(
        code="GT010",
        name="missing-in-layer",
        per_tensor=True,
        find=_missing_in_layer,
        alike="without a gradient",
        summary="A layer lacks a gradient that its sibling layers have.",
        explanation=(
            "Autograd did not reach it there: its output is not used, is detached, or it is "
            "frozen; or the dump left it out. Tensors are compared that have one name but for the "
            "first number in it. Where the dump notes parameters without a gradient, as "
            "dump_gradients does, most of the others have to have one, and last layers that are "
            "not used at all are left to GT008. Names that are not there at all count between "
            "the first layer and the last, in at most one layer of eight, where more than half "
            "of at least three others are of one make."
        ),
        rationale=(
            "None can be set. First and last layers lack tensors on purpose, as do layers of "
            "another make in models that alternate; freezing a model's first layers is usual."
        ),
        remedy=(
            "Look in that layer for requires_grad=False, a detach(), or a branch that is not "
            "taken; if it is meant, ignore the rule for these tensors with an override."
        ),
    ),
)
