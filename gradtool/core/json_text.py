"""JSON as files may use it: nothing beyond the standard, no duplicate keys, no bombs.

Python's parser takes a megabyte of `[],[],[]` for 25 MB, whatever becomes of it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any, Final, NoReturn

_COSTS: Final = {"[": 72, "{": 184, ":": 120}
"""Bytes of memory for what each of these begins in a document, at most."""
_BUDGET_PER_CHARACTER: Final = 20
_FREE_BUDGET: Final = 4 << 20


def parse(text: str, *, nonfinite: bool = False) -> Any:
    """What `text` says; ValueError for what is no JSON, ambiguous, or far larger than the text.

    With `nonfinite`, NaN and Infinity are numbers, as Python's own writer has them.
    """
    cost = sum(text.count(mark) * cost for mark, cost in _COSTS.items())
    if cost > _BUDGET_PER_CHARACTER * len(text) + _FREE_BUDGET:
        limit = _BUDGET_PER_CHARACTER
        raise ValueError(f"lists and maps that take more than {limit} times the memory of its text")
    try:
        return (_WITH_NONFINITE if nonfinite else _DECODER).decode(text)
    except RecursionError as error:
        raise ValueError("nests too deeply") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A map of these pairs; ValueError for a key that is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"duplicate key {counts.most_common(1)[0][0]!r:.80}")
    return found


def is_unicode(text: str) -> bool:
    """Whether `text` has none of the lone surrogates that JSON can spell and no output takes."""
    return text.isascii() or text.encode(errors="replace").decode() == text


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _integer(text: str) -> int:
    # Each digit takes more time than the one before; int() says so in words for programmers.
    if len(text) > sys.int_info.default_max_str_digits:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_without_duplicates, parse_constant=_refuse_number, parse_int=_integer
)

_WITH_NONFINITE: Final = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_int=_integer)
