"""What `check` looks for: every rule, by families."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Final

from gradtool.core.judging.rule import Rule
from gradtool.errors import UsageError
from gradtool.rules import balance, changes, drift, integrity, magnitude, nonfinite

RULES: Final[dict[str, Rule]] = {
    rule.code: rule
    for module in (integrity, nonfinite, magnitude, balance, drift, changes)
    for rule in module.RULES
}
"""All rules by code, in the order of codes."""


def find_rule(text: str) -> Rule:
    """The rule with that code or name, in any case; UsageError naming the nearest one."""
    names = {rule.name: rule for rule in RULES.values()}
    found = RULES.get(text.upper()) or names.get(text.lower())
    if found is None:
        nearest = nearest_of(text, [*RULES, *names])
        raise UsageError(f"there is no rule {text!r}", hint=f"did you mean {nearest}?")
    return found


def nearest_of(text: str, valid: list[str]) -> str:
    """Which of the valid words was most likely meant."""
    folded = {word.casefold(): word for word in reversed(valid)}
    return folded[get_close_matches(text.casefold(), folded, n=1, cutoff=0.0)[0]]
