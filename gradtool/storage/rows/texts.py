"""JSON that stands in a store, read as strictly as that of a file: ValueError for anything odd."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from gradtool.core import json_text
from gradtool.core.figures import json_number

Value = TypeVar("Value")

_NAMES: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_encode: Final = json.JSONEncoder(
    allow_nan=False, check_circular=False, separators=(",", ":")
).encode


def written(fields: object) -> bytes:
    """Fields as JSON in ASCII."""
    return _encode(fields).encode()


class Fields:
    """The members of a JSON object, taken out one by one and by type."""

    def __init__(self, members: object) -> None:
        if not isinstance(members, dict):
            raise ValueError("no JSON object")
        self._members: Mapping[str, Any] = members

    @classmethod
    def read(cls, data: bytes) -> Fields:
        """Those of the object that bytes spell."""
        return cls(json_text.parse(data.decode()))

    def _take(self, name: str) -> Any:
        if name not in self._members:
            raise ValueError(f"{name!r} is missing")
        return self._members[name]

    def text(self, name: str) -> str:
        """A text."""
        return text_of(self._take(name))

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        return self.listed(name, text_of)

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self._take(name)
        if not isinstance(value, bool):
            raise ValueError(f"{name!r} is not true or false")
        return value

    def count(self, name: str) -> int:
        """A whole number of at least 0."""
        return count_of(self._take(name))

    def number(self, name: str) -> float:
        """A number, or the name of one that is not finite."""
        return number_of(self._take(name))

    def optional(self, name: str, read: Callable[[Any], Value]) -> Value | None:
        """What `read` makes of a member; None for null."""
        value = self._take(name)
        return None if value is None else read(value)

    def listed(self, name: str, read: Callable[[Any], Value]) -> tuple[Value, ...]:
        """What `read` makes of each item of a list."""
        value = self._take(name)
        if not isinstance(value, list):
            raise ValueError(f"{name!r} is no list")
        return tuple(map(read, value))


def as_number(value: float | None) -> float | str | None:
    """A number as JSON has it."""
    return None if value is None else json_number(value)


def text_of(value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise ValueError("no text")
    return value


def count_of(value: Any) -> int:
    """A whole number of at least 0."""
    if type(value) is not int or value < 0:
        raise ValueError("no count")
    return value


def number_of(value: Any) -> float:
    """A number, or the name of one that is not finite."""
    if isinstance(value, str) and value in _NAMES:
        return _NAMES[value]
    if type(value) not in (int, float):
        raise ValueError("no number")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError("a number beyond any") from error
