"""Checks of arguments that functions of the library share: each raises UsageError with a name."""

from __future__ import annotations

from collections.abc import Iterable

from gradtool.errors import UsageError


def number(name: str, value: float) -> float:
    """A float of what may be one: numbers, and texts such as "inf"."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"`{name}` must be a number, not {value!r}") from error


def require(condition: bool, problem: str) -> None:
    """UsageError saying what the problem is, unless the condition holds."""
    if not condition:
        raise UsageError(problem)


def globs(name: str, patterns: str | Iterable[str]) -> tuple[str, ...]:
    """A glob or globs as a tuple; UsageError for anything else."""
    return texts(name, patterns, "a glob or globs")


def texts(name: str, given: str | Iterable[str], what: str = "a text or texts") -> tuple[str, ...]:
    """A text or texts as a tuple; UsageError, saying `what` they must be, for anything else."""
    require(hasattr(given, "__iter__"), f"`{name}` must be {what}, not {given!r}")
    # They are used more than once; what gives them may not be.
    found = (given,) if isinstance(given, str) else tuple(given)
    are_texts = all(isinstance(one, str) for one in found)
    require(are_texts, f"`{name}` must be {what}, not {given!r}")
    return found
