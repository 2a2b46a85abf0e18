"""Why two dumps differ: every rule, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Final

from gradtool.core.comparing.conclusion import Conclusion
from gradtool.core.comparing.difference import TensorDifference
from gradtool.core.comparing.second_look import SecondLook
from gradtool.core.judging.quotient import Known
from gradtool.core.judging.rule import Explained
from gradtool.rules import find_rule
from gradtool.rules.diagnosing import bits, factors, lost, places, rounding
from gradtool.rules.diagnosing.evidence import Diagnosis, Evidence, compared

_MODULES: Final = (lost, bits, factors, places, rounding)

DIAGNOSES: Final[dict[str, Diagnosis]] = {
    rule.code: rule
    for rule in sorted(
        (rule for module in _MODULES for rule in module.RULES), key=attrgetter("code")
    )
}
"""All rules by code. What one of them explains, those after it are not asked about."""


def find_explained(text: str) -> Explained:
    """The rule of `check` or of `diff` with that code or name; UsageError for none."""
    by_name = {rule.name: rule for rule in DIAGNOSES.values()}
    rule = DIAGNOSES.get(text.upper()) or by_name.get(text.lower())
    return rule or find_rule(text, also=[*DIAGNOSES, *by_name])


def diagnosed(
    pairs: Sequence[TensorDifference], look: SecondLook, known: Known, *, in_model_order: bool
) -> tuple[Conclusion, ...]:
    """What the figures of all pairs, in the order of the first dump, say together."""
    differing = tuple(pair for pair in pairs if not pair.same)
    evidence = Evidence(tuple(pairs), differing, compared(differing), look, known, in_model_order)
    found = []
    for rule in DIAGNOSES.values():
        explained: set[int] = set()
        for told in rule.find(evidence):
            names = tuple(pair.name for pair in told.tensors)
            found.append(Conclusion(rule.code, rule.name, told.text, names))
            explained |= {id(pair) for pair in told.tensors}
        if explained:
            evidence = replace(
                evidence,
                open=tuple(pair for pair in evidence.open if id(pair) not in explained),
                compared=tuple(one for one in evidence.compared if id(one.pair) not in explained),
            )
    return tuple(found)
