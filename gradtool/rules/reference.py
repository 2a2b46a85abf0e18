"""GT411: gradients that are not those of another dump, element by element."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gradtool.core.comparing.difference import Difference
from gradtool.core.comparing.words import details, not_compared, other_details, sentence
from gradtool.core.figures import some
from gradtool.core.judging.limits import Limits
from gradtool.core.judging.rule import LARGEST_FLOAT, Parameter
from gradtool.rules.evidence import DumpRule, Evidence, Problem
from gradtool.shortening import LONGEST_NAME, shortened

DIFFERS: Final = "GT411"


def _differs(evidence: Evidence, limits: Limits) -> Iterator[Problem]:  # noqa: ARG001 - a Finder
    difference = evidence.difference
    if difference is not None and not difference.same:
        yield Problem("; ".join(_sentences(difference)))


def _sentences(difference: Difference) -> Iterator[str]:
    """What differs, first of all, and why that may be."""
    yield f"beside {difference.a.path!r:.240} (A): {sentence(difference)}"
    first = next((tensor for tensor in difference.tensors if not tensor.same), None)
    if first is not None:
        yield f"first {shortened(repr(first.name), LONGEST_NAME)}: {details(first)}"
    for side, names in (("A", difference.only_in_a), ("B", difference.only_in_b)):
        if names:
            yield f"only in {side}: {some(names)}"
    if difference.not_compared:
        yield f"those {not_compared(difference)}"
    others = [one for one in difference.others if not one.identical]
    if others:
        name = shortened(repr(others[0].name), LONGEST_NAME)
        yield f"first of the other tensors {name}: {other_details(others[0])}"
    yield from (f"{one.code} {one.name}: {one.text}" for one in difference.diagnosis)


RULES = (
    DumpRule(
        code=DIFFERS,
        name="differs",
        find=_differs,
        summary="Gradients are not those of the dump to compare with, element by element.",
        explanation=(
            "What `gradtool diff` finds between the dump that `against` names, A, and this one, "
            "B: elements or names that differ, or two dumps without a number that is not 0. "
            "Equal norms are not equal gradients: columns may be in another order, a sign turned."
        ),
        rationale=(
            "No bound: without one only the same bits are the same, in the same dtype. With none "
            "of the thresholds set, the tolerances that the configuration has for `gradtool diff` "
            "hold, which may differ by names."
        ),
        remedy="`gradtool diff A B` lists every tensor; its diagnosis says why they may differ.",
        parameters=(
            Parameter("rtol", None, "largest |b - a| / |a| of an element", high=LARGEST_FLOAT),
            Parameter("atol", None, "what is added to that bound", high=LARGEST_FLOAT),
            Parameter("max_rel_l2", None, "largest |b - a| / |a| of norms", high=LARGEST_FLOAT),
        ),
    ),
)
