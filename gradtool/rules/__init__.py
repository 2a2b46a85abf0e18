"""Every rule of `check`, by family."""

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
    """The rule with that code or name, in any case; UsageError, naming the nearest, for none."""
    by_name = {rule.name: rule for rule in RULES.values()}
    rule = RULES.get(text.upper()) or by_name.get(text.lower())
    if rule is None:
        nearest = nearest_of(text, [*RULES, *by_name])
        raise UsageError(f"there is no rule {text!r}", hint=f"did you mean {nearest}?")
    return rule


def nearest_of(text: str, valid: list[str]) -> str:
    """The one of the `valid` words that is most like `text`."""
    folded = {word.casefold(): word for word in reversed(valid)}
    return folded[get_close_matches(text.casefold(), folded, n=1, cutoff=0.0)[0]]
