"""Checks of option values: each function returns the value, or raises typer.BadParameter.

Typer calls them for defaults too, which may be None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from difflib import get_close_matches

import typer

from gradtool.core.dtypes import DTYPES


def norm_type(value: float) -> float:
    """The order of a norm: any number but NaN."""
    if math.isnan(value):
        raise typer.BadParameter("NaN is no norm type; give a number, inf or -inf")
    return value


def bound(value: float | None) -> float | None:
    """A bound on a norm or a magnitude: at least 0."""
    if value is not None and not value >= 0.0:  # true of NaN as well
        raise typer.BadParameter(f"{value} is no bound; give a number >= 0, or inf")
    return value


def total_norm(value: float | None) -> float | None:
    """A norm to clip by: finite and at least 0."""
    if value is not None and not 0.0 <= value < math.inf:
        raise typer.BadParameter(f"{value} is no norm to clip by; give a finite number >= 0")
    return value


def eps(value: float | None) -> float | None:
    """The number added to a norm: finite and at least 0."""
    if value is not None and not 0.0 <= value < math.inf:
        raise typer.BadParameter(f"{value} is no epsilon; give a finite number >= 0")
    return value


def loss_scale(value: float | None) -> float | None:
    """The number that gradients are divided by: finite and above 0."""
    if value is not None and not 0.0 < value < math.inf:
        raise typer.BadParameter(f"{value} is no scale; give a finite number > 0")
    return value


def tolerance(value: float | None) -> float | None:
    """A relative difference of norms: finite and at least 0."""
    if value is not None and not 0.0 <= value < math.inf:
        raise typer.BadParameter(f"{value} is no tolerance; give a finite number >= 0")
    return value


def expected_norm(value: float | None) -> float | None:
    """A norm that is expected: finite and at least 0."""
    if value is not None and not 0.0 <= value < math.inf:
        raise typer.BadParameter(f"{value} is no norm to expect; give a finite number >= 0")
    return value


def report_file(value: str | None) -> str | None:
    """A file for a report, or - for stdout: not empty."""
    if value is not None and not value:
        raise typer.BadParameter("it is empty; give a file, or - for stdout")
    return value


def dtype(value: str | None) -> str | None:
    """The name of an element type, which is returned in capitals."""
    if value is None or value.upper() in DTYPES:
        return value and value.upper()
    nearest = get_close_matches(value.upper(), DTYPES, n=1)
    meant = f"Did you mean {nearest[0]}?" if nearest else f"They are {', '.join(DTYPES)}."
    raise typer.BadParameter(f"no such dtype: {value!r}. {meant}")


def completing_rules(incomplete: str) -> Iterator[str]:
    """For shell completion: the rules of `check` whose code or name begins with what was typed."""
    from gradtool.rules import RULES  # noqa: PLC0415 - not for --help

    yield from completing([*RULES, *(rule.name for rule in RULES.values())])(incomplete)


def completing_explained(incomplete: str) -> Iterator[str]:
    """The same of all rules that `explain` knows: those of `check`, then those of `diff`."""
    from gradtool.rules.diagnosing import DIAGNOSES  # noqa: PLC0415 - not for --help

    yield from completing_rules(incomplete)
    yield from completing([*DIAGNOSES, *(one.name for one in DIAGNOSES.values())])(incomplete)


def completing(names: Collection[str]) -> Callable[[str], Iterator[str]]:
    """A function for shell completion: it gives the names that begin with what was typed."""

    def complete(incomplete: str) -> Iterator[str]:
        yield from (name for name in names if name.lower().startswith(incomplete.lower()))

    return complete
