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
    require(hasattr(patterns, "__iter__"), f"`{name}` must be a glob or globs, not {patterns!r}")
    # Patterns are used more than once; what gives them may not be.
    found = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    texts = all(isinstance(pattern, str) for pattern in found)
    require(texts, f"`{name}` must be a glob or globs, not {patterns!r}")
    return found
