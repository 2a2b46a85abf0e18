"""Why two dumps differ: every rule, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Final

from gradtool.core.comparing.difference import Conclusion, TensorDifference
from gradtool.core.comparing.second_look import SecondLook
from gradtool.core.judging.quotient import Known
from gradtool.rules.diagnosing import bits, factors, lost, places, rounding
from gradtool.rules.diagnosing.evidence import Diagnosis, Evidence

_MODULES: Final = (lost, bits, factors, places, rounding)

DIAGNOSES: Final[dict[str, Diagnosis]] = {
    rule.code: rule
    for rule in sorted(
        (rule for module in _MODULES for rule in module.RULES), key=attrgetter("code")
    )
}
"""All rules by code. What one of them explains, those after it are not asked about."""


def diagnosed(
    pairs: Sequence[TensorDifference], look: SecondLook, known: Known
) -> tuple[Conclusion, ...]:
    """What the figures of all pairs, in the order of the first dump, say together."""
    differing = tuple(pair for pair in pairs if not pair.same)
    evidence = Evidence(tuple(pairs), differing, look, known)
    found = []
    for rule in DIAGNOSES.values():
        explained: set[int] = set()
        for told in rule.find(evidence):
            names = tuple(pair.name for pair in told.tensors)
            found.append(Conclusion(rule.code, rule.name, told.text, names))
            explained |= {id(pair) for pair in told.tensors}
        if explained:
            left = tuple(pair for pair in evidence.open if id(pair) not in explained)
            evidence = replace(evidence, open=left)
    return tuple(found)
