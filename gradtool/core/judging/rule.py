"""What a rule of `check` is, before anything is judged by it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Final, Literal, TypeAlias

Severity = Literal["error", "warning"]
SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning")
"""From the gravest on."""

Threshold: TypeAlias = float | int | tuple[str, ...] | None
"""The value of a parameter; None where it sets no limit."""

NONE: Final = "none"
"""How it is spelt that a number sets no limit."""

LARGEST: Final = sys.float_info.max
"""The bound of what must be finite."""

_TOO_MUCH: Final = 1 << 63

Thresholds: TypeAlias = Mapping[str, Threshold]
"""Values of a rule's parameters by their names."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A threshold of a rule.

    Attributes:
        name: as it is spelt in a configuration.
        default: its value unless set; None for no limit.
        meaning: what it limits, and in which unit.
        low, high: the least and the largest value that make sense.
        kind: "number", "count" (a whole number), or "names" (globs over tensor names).
        of_l2: whether the default is for norms of order 2, and None for others.
    """

    name: str
    default: Threshold
    meaning: str
    low: float = 0.0
    high: float = math.inf
    kind: Literal["number", "count", "names"] = "number"
    of_l2: bool = False

    def checked(self, value: object) -> Threshold:
        """`value`, if the parameter can be that; ValueError saying what it must be."""
        if self.kind == "names":
            return _names(value)
        if self.kind == "number" and (value is None or value == NONE):
            return None
        wanted = "a whole number" if self.kind == "count" else "a number"
        if type(value) not in (bool, int, float) and isinstance(value, Real):
            # NumPy's, say, of which float64 is a float that is spelt otherwise.
            value = int(value) if isinstance(value, Integral) else float(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"must be {wanted}, not {value!r}")
        if self.kind == "count" and not isinstance(value, int):
            raise ValueError(f"must be {wanted}, not {value!r}")
        # NaN is refused too, and what neither a float nor a counter holds.
        if not self.low <= value <= self.high or (isinstance(value, int) and value >= _TOO_MUCH):
            raise ValueError(f"must be {wanted} {self.range}, not {value!r}")
        return value

    @property
    def range(self) -> str:
        """Which values make sense, in words."""
        if self.kind == "names":
            return "a list of globs"
        if self.high == LARGEST:
            return f"of at least {self.low:g}, and finite"
        if self.high == math.inf:
            return f"of at least {self.low:g}"
        return f"from {self.low:g} to {self.high:g}"


def _names(value: object) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) and n for n in names):
        raise ValueError(f"must be a name or a list of names, not {value!r}")
    return tuple(names)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One thing that can be wrong with a dump.

    Attributes:
        code: `GT` and three digits, of which the first is the family's; never given anew.
        name: short, and as stable.
        severity: unless a configuration says otherwise.
        summary: what is wrong where the rule finds something, in one line.
        explanation: what that means for the training.
        threshold: why the parameters' defaults are what they are.
        remedy: what to do about it.
        parameters: what can be set.
        together: whether it judges all dumps together, and no single one.
        always: whether it cannot be switched off: without it nothing could be said at all.
    """

    code: str
    name: str
    severity: Severity = "error"
    summary: str
    explanation: str
    threshold: str
    remedy: str
    parameters: tuple[Parameter, ...] = ()
    together: bool = False
    always: bool = False

    def defaults(self, norm_type: float = 2.0) -> dict[str, Threshold]:
        """Its thresholds for norms of that order where nobody set any."""
        return {
            one.name: None if one.of_l2 and norm_type != 2.0 else one.default
            for one in self.parameters
        }

    def parameter(self, name: str) -> Parameter | None:
        """The parameter so named, if there is one."""
        return next((one for one in self.parameters if one.name == name), None)


FAMILIES: Final = {
    "0": "integrity",
    "1": "non-finite",
    "2": "magnitude",
    "3": "balance",
    "4": "baseline",
}
"""What the first digit of a code stands for."""


def family(code: str) -> str:
    """The name of the family that a code, or its beginning, belongs to; "" for that of any."""
    return FAMILIES.get(code[2:3], "")


def spelled(thresholds: Thresholds) -> Iterator[tuple[str, str]]:
    """Names and values as a configuration spells them; `none` where there is no limit."""
    for name, value in thresholds.items():
        if value is None or value == ():
            yield name, NONE
        elif isinstance(value, tuple):
            yield name, " ".join(value)
        else:
            yield name, repr(value).removesuffix(".0")
