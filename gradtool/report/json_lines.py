"""JSON that is quick to write and to read: a field a line, and of long lists an item a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

# One encoder for all calls: `json.dumps` with options builds another for each.
encode = json.JSONEncoder(allow_nan=False, check_circular=False).encode


def json_object(fields: Mapping[str, object]) -> str:
    """A JSON object, one field a line, and of an iterator one item a line.

    The standard library indents either everything or nothing, and indents in slow Python. Items of
    iterators that are strings are JSON already.
    """
    return "{" + ",\n ".join(f'"{key}": {_value(value)}' for key, value in fields.items()) + "}"


def _value(value: object) -> str:
    if not isinstance(value, Iterator):
        return encode(value)
    lines = ",\n  ".join(item if isinstance(item, str) else encode(item) for item in value)
    return f"[\n  {lines}]" if lines else "[]"
