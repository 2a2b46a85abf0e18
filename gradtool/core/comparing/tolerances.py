"""Tolerances by the names of tensors: the first pattern that fits one says what is allowed of it.

A name that no pattern fits is an error: what nobody thought of must not pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from gradtool.core.comparing.tolerance import EXACT, Tolerance
from gradtool.core.figures import some
from gradtool.core.names import ONLY_WRAPPERS, BareNames, name_filter
from gradtool.errors import UsageError
from gradtool.shortening import brief_repr

BOUNDS: Final = ("rtol", "atol", "max_rel_l2")
_KEYS: Final = ("pattern", *BOUNDS, "ulps", "equal_nan")


@dataclass(frozen=True, slots=True)
class PatternTolerance:
    """What is allowed of the tensors whose names a glob fits."""

    pattern: str
    tolerance: Tolerance


@dataclass(frozen=True, slots=True)
class Tolerances:
    """What is allowed of which tensors.

    Attributes:
        default: of all, where there are no patterns.
        patterns: of those that fit a name the first counts.
        config: path of the configuration that they are from; None where a call gave them.
    """

    default: Tolerance = EXACT
    patterns: tuple[PatternTolerance, ...] = ()
    config: str | None = None

    def with_any_nan_equal(self) -> Tolerances:
        """The same, but that any NaN agrees with any."""
        patterns = (
            PatternTolerance(one.pattern, replace(one.tolerance, equal_nan=True))
            for one in self.patterns
        )
        return replace(
            self, default=replace(self.default, equal_nan=True), patterns=tuple(patterns)
        )

    def of(
        self, names: Sequence[str], bare: BareNames = ONLY_WRAPPERS
    ) -> tuple[list[Tolerance], list[str]]:
        """The tolerance of each name, and the patterns that decide nothing.

        UsageError naming tensors that no pattern fits.
        """
        if not self.patterns:
            return [self.default] * len(names), []
        filters = [name_filter([one.pattern], (), bare) for one in self.patterns]
        deciding = [next((n for n, fits in enumerate(filters) if fits(x)), None) for x in names]
        unfit = [name for name, n in zip(names, deciding, strict=True) if n is None]
        if unfit:
            where = "" if self.config is None else f"{self.config}: "
            raise UsageError(
                f"{where}no tolerance is for {some(unfit)}",
                hint="the last pattern may be '*', for all others",
            )
        idle = set(range(len(filters))).difference(deciding)
        found = [self.patterns[n].tolerance for n in deciding if n is not None]
        return found, [self.patterns[n].pattern for n in sorted(idle)]


def read_patterns(tables: object, where: str) -> tuple[PatternTolerance, ...]:
    """What tables of a configuration or a call say, each with a `pattern` and its bounds.

    A table without bounds asks for equal bits. Raises UsageError, saying `where` and the key, for
    what is wrong.
    """
    if not isinstance(tables, list | tuple):
        raise UsageError(f"{where}: must be a list of tables, not {brief_repr(tables)}")
    return tuple(
        one
        for number, table in enumerate(tables, start=1)
        for one in _patterns(table, f"{where} {number}")
    )


def _patterns(table: object, where: str) -> Iterator[PatternTolerance]:
    if not isinstance(table, Mapping):
        raise UsageError(f"{where}: must be a table, not {brief_repr(table)}")
    for key in table:
        if key not in _KEYS:
            valid = ", ".join(_KEYS)
            raise UsageError(
                f"{where} {brief_repr(key)}: there is no such key", hint=f"give {valid}"
            )
    tolerance = checked_tolerance(table, lambda key: f"{where} {key}")
    pattern = table.get("pattern")
    patterns = [pattern] if isinstance(pattern, str) else pattern
    if not isinstance(patterns, list | tuple) or not all(
        isinstance(one, str) and one for one in patterns
    ):
        raise UsageError(f"{where} pattern: must be a glob or globs, not {brief_repr(pattern)}")
    if not patterns:
        raise UsageError(f"{where} pattern: a tolerance needs at least one")
    yield from (PatternTolerance(one, tolerance) for one in patterns)


def checked_tolerance(bounds: Mapping[str, Any], called: Callable[[str], str]) -> Tolerance:
    """The tolerance of these bounds, those that are not None.

    UsageError with what a key is `called` for one that is negative, NaN, infinite or no number.
    """
    values = {key: _bound(bounds.get(key), called(key)) for key in BOUNDS}
    ulps = bounds.get("ulps")
    if ulps is not None and not (type(ulps) is int and ulps >= 0):
        raise UsageError(f"{called('ulps')} must be a whole number >= 0, not {brief_repr(ulps)}")
    equal_nan = bounds.get("equal_nan", False)
    if not isinstance(equal_nan, bool):
        raise UsageError(
            f"{called('equal_nan')} must be true or false, not {brief_repr(equal_nan)}"
        )
    return Tolerance(**values, ulps=ulps, equal_nan=equal_nan)


def _bound(value: object, called: str) -> float | None:
    if value is None:
        return None
    try:
        bound = math.nan if isinstance(value, bool | str) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        bound = math.nan
    if not bound >= 0.0:  # true of NaN as well
        raise UsageError(f"{called} must be a number >= 0, not {brief_repr(value)}")
    if bound == math.inf:
        raise UsageError(f"{called} must be finite, not {bound}: nothing would differ")
    return bound


def tables_of(given: object) -> object:
    """Tables as `read_patterns` takes them, of such or of a dict from a pattern to its bounds."""
    if not isinstance(given, Mapping):
        is_some = isinstance(given, Iterable) and not isinstance(given, str | bytes)
        return list(given) if is_some else given  # type: ignore[call-overload]
    tables = []
    for pattern, bounds in given.items():
        if not isinstance(bounds, Mapping):
            what = brief_repr(bounds)
            raise UsageError(f"tolerances {pattern!r:.80}: must be bounds by name, not {what}")
        tables.append({"pattern": pattern, **bounds})
    return tables
