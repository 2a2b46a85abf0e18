"""JSON as headers and index files may use it: no duplicate keys, nothing beyond the standard."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NoReturn

from gradtool.errors import CorruptFileError


def parse_object(data: bytes, path: str, what: str) -> dict[str, Any]:
    """The JSON object in `data`; CorruptFileError for anything else or ambiguous."""
    try:
        parsed = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_number,
        )
    except UnicodeDecodeError as error:
        raise CorruptFileError(path, f"{what} is not UTF-8", byte=error.start) from error
    except RecursionError as error:
        raise CorruptFileError(path, f"{what} nests too deeply") from error
    except ValueError as error:
        raise CorruptFileError(path, f"{what} is not valid JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise CorruptFileError(path, f"{what} is no JSON object")
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"duplicate key {counts.most_common(1)[0][0]!r}")
    return found


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")
