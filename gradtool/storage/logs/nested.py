"""Entries of JSON objects that lie in others: `{"train": {"grad_norm": 1}}` has `train/grad_norm`.

Trainers that log flat names write the slash themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

BETWEEN: Final = "/"
"""What stands between the names of an object and of what is in it."""

LONGEST_NAME: Final = 1_000
"""Characters of a name together with those of the objects that it is in."""


def entries_of(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """All entries by their whole names, in their order.

    Raises ValueError for a name that is too long, or there twice: a line of a megabyte could have
    names of gigabytes.
    """
    if not any(isinstance(value, dict) for value in fields.values()):
        return fields
    found: dict[str, Any] = {}
    for name, value in _within(fields):
        if name in found:
            raise ValueError(f"has two entries {name!r:.80}")
        found[name] = value
    return found


def _within(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    waiting: list[tuple[str, Iterator[tuple[str, Any]]]] = [("", iter(fields.items()))]
    while waiting:
        start, items = waiting[-1]
        for key, value in items:
            is_object = isinstance(value, dict)
            if (start or is_object) and len(start) + len(key) > LONGEST_NAME:
                raise ValueError(f"has a name of over {LONGEST_NAME:,} characters")
            if is_object:
                waiting.append((f"{start}{key}{BETWEEN}", iter(value.items())))
                break
            yield f"{start}{key}", value
        else:
            waiting.pop()
