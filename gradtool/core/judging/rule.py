"""Rules of `check`: what each is about, and the thresholds that can be set."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Final, Literal, TypeAlias

Severity = Literal["error", "warning"]
SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning")
"""The gravest first."""

Threshold: TypeAlias = float | int | tuple[str, ...] | None
"""The value of a parameter; None where it sets no limit."""

NO_LIMIT: Final = "none"
"""What stands in a configuration for a number that sets no limit."""

LARGEST_FLOAT: Final = sys.float_info.max
"""The `high` of a parameter that must be finite."""

_INTEGER_BOUND: Final = 1 << 63
"""Integers from here on fit no counter."""

Thresholds: TypeAlias = Mapping[str, Threshold]
"""A rule's thresholds by the names of its parameters."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A threshold of a rule that can be set.

    Attributes:
        name: as it is spelt in a configuration.
        default: its value unless set; None for no limit.
        meaning: what it limits, and in which unit.
        low, high: the least and the largest value allowed.
        kind: "number", "count" (a whole number), or "names" (globs over tensor names).
        l2_only: whether the default is for norms of order 2; for others it is None then.
    """

    name: str
    default: Threshold
    meaning: str
    low: float = 0.0
    high: float = math.inf
    kind: Literal["number", "count", "names"] = "number"
    l2_only: bool = False

    def checked(self, value: object) -> Threshold:
        """`value` as a threshold; ValueError, which says what it must be, if it is not allowed."""
        if self.kind == "names":
            return _names(value)
        if self.kind == "number" and (value is None or value == NO_LIMIT):
            return None
        wanted = "a whole number" if self.kind == "count" else "a number"
        if type(value) not in (bool, int, float) and isinstance(value, Real):
            # Numbers of NumPy, say: its float64 is a float whose repr looks different.
            value = int(value) if isinstance(value, Integral) else float(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"must be {wanted}, not {value!r}")
        if self.kind == "count" and not isinstance(value, int):
            raise ValueError(f"must be {wanted}, not {value!r}")
        # Comparisons refuse NaN too.
        is_huge = isinstance(value, int) and value >= _INTEGER_BOUND
        if not self.low <= value <= self.high or is_huge:
            raise ValueError(f"must be {wanted} {self.range}, not {value!r}")
        return value

    @property
    def range(self) -> str:
        """The values allowed, in words."""
        if self.kind == "names":
            return "a list of globs"
        if self.high == LARGEST_FLOAT:
            return f"of at least {self.low:g}, and finite"
        if self.high == math.inf:
            return f"of at least {self.low:g}"
        return f"from {self.low:g} to {self.high:g}"


def _names(value: object) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if isinstance(names, list | tuple) and all(isinstance(name, str) and name for name in names):
        return tuple(names)
    raise ValueError(f"must be a name or a list of names, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class Explained:
    """Something that is told of dumps, with its documentation.

    Attributes:
        code: `GT` and three digits, of which the first is the family's; never reused.
        name: short, and as stable as the code.
        summary: what is wrong where it is told, in one line.
        explanation: what that means for the training.
        rationale: why the thresholds are what they are.
        remedy: what to do about it.
    """

    code: str
    name: str
    summary: str
    explanation: str
    rationale: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Rule(Explained):
    """One thing that can be wrong with a dump.

    Attributes:
        severity: of its findings, unless a configuration says otherwise.
        parameters: the thresholds that can be set.
        across_dumps: whether it judges the dumps of a run together, and not each by itself.
        marks_dumps: whether such a rule says which of the dumps are at fault: these have its
            findings then.
        mandatory: whether it cannot be switched off.
    """

    severity: Severity = "error"
    parameters: tuple[Parameter, ...] = ()
    across_dumps: bool = False
    marks_dumps: bool = False
    mandatory: bool = False

    def defaults(self, norm_type: float = 2.0) -> dict[str, Threshold]:
        """The thresholds for norms of order `norm_type` where none are set."""
        return {
            parameter.name: None if parameter.l2_only and norm_type != 2.0 else parameter.default
            for parameter in self.parameters
        }

    def parameter(self, name: str) -> Parameter | None:
        """The parameter `name`, if there is one."""
        return next((parameter for parameter in self.parameters if parameter.name == name), None)


FAMILIES: Final = {
    "0": "integrity",
    "1": "non-finite",
    "2": "magnitude",
    "3": "balance",
    "4": "baseline",
}
"""Names of the families of rules by the first digit of their codes."""


def family(code: str) -> str:
    """The family of a code or of its beginning, such as GT2; "" for a beginning without a digit."""
    return FAMILIES.get(code[2:3], "")


def threshold_texts(thresholds: Thresholds) -> Iterator[tuple[str, str]]:
    """Each name and value, as a configuration spells them; `none` where there is no limit."""
    for name, value in thresholds.items():
        if value is None or value == ():
            yield name, NO_LIMIT
        elif isinstance(value, tuple):
            yield name, " ".join(value)
        else:
            yield name, repr(value).removesuffix(".0")
