"""What of two dumps is allowed to differ: as given in the call, else as configured."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gradtool.api.configured import config_of
from gradtool.arguments import require
from gradtool.core.comparing.tolerance import EXACT
from gradtool.core.comparing.tolerances import (
    Tolerances,
    checked_tolerance,
    read_patterns,
    tables_of,
)
from gradtool.rules.config_file import Config


def tolerances_of(
    given: Mapping[str, Any],
    by_name: object,
    config: str | os.PathLike[str] | Config | None,
    *,
    equal_nan: bool,
) -> tuple[Tolerances, list[str]]:
    """What is allowed: bounds as `given`, else `by_name`, else as configured; and what is unused.

    With `equal_nan` any NaN agrees with any, whoever gave the bounds. UsageError for a bound that
    is negative or NaN, and for both of the first.
    """
    configured = config_of(config, "diff")
    default = checked_tolerance(given, lambda key: f"`{key}`")
    patterns = read_patterns(tables_of(by_name), "tolerances")
    for name, bound in given.items():
        excluded = bound is not None and patterns
        require(not excluded, f"`{name}` and tolerances by name exclude each other")
    unused = []
    found = Tolerances(default, configured.tolerances, configured.path)
    if patterns or default != EXACT:
        found = Tolerances(default, patterns)
        if configured.tolerances:
            unused = [f"the tolerances of {configured.path} are not in force: others are given"]
    return (found.with_any_nan_equal() if equal_nan else found), unused


def idle_notes(patterns: Sequence[str]) -> Iterator[str]:
    """A sentence on each pattern that decides nothing."""
    for pattern in patterns:
        yield (
            f"the tolerance for {pattern!r:.80} decides nothing: no tensor, or only such as an "
            "earlier one fits"
        )
