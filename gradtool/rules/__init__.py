"""Every rule of `check`, by family."""

from __future__ import annotations

from collections.abc import Collection
from difflib import SequenceMatcher, get_close_matches
from itertools import takewhile
from operator import attrgetter
from typing import Final

from gradtool.core.judging.rule import Rule
from gradtool.errors import UsageError
from gradtool.rules import balance, integrity, magnitude, nonfinite, reference, spikes
from gradtool.rules.baseline import changes, drift
from gradtool.rules.layered import absences, zeros

_MODULES: Final = (
    *(integrity, absences, nonfinite, magnitude, zeros, balance),
    *(spikes, drift, changes, reference),
)

RULES: Final[dict[str, Rule]] = {
    rule.code: rule
    for rule in sorted(
        (rule for module in _MODULES for rule in module.RULES), key=attrgetter("code")
    )
}
"""All rules by code, in the order of codes."""


def find_rule(text: str, also: Collection[str] = ()) -> Rule:
    """The rule with that code or name, in any case; UsageError, naming the nearest, for none.

    `also` has what else might have been meant.
    """
    by_name = {rule.name: rule for rule in RULES.values()}
    rule = RULES.get(text.upper()) or by_name.get(text.lower())
    if rule is None:
        raise UsageError(
            f"there is no rule {text!r}", hint=suggestion(text, [*RULES, *by_name, *also])
        )
    return rule


def suggestion(text: str, valid: list[str], least: float = 0.6) -> str | None:
    """Which of the `valid` words is meant by `text`; None where none is as like it as `least`."""
    folded = {word.casefold(): word for word in reversed(valid)}
    given = text.casefold()
    near = get_close_matches(given, folded, n=_MOST_NEAR, cutoff=least)
    if not near:
        return None

    def likeness(word: str) -> tuple[float, int]:
        # Of codes as like as each other, that of the same family is meant: their beginnings agree.
        beginning = takewhile(lambda both: both[0] == both[1], zip(word, given, strict=False))
        return SequenceMatcher(None, word, given).ratio(), len([*beginning])

    return f"did you mean {folded[max(near, key=likeness)]}?"


_MOST_NEAR: Final = 50
