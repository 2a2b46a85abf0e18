"""JSON in files: whole documents, and headers that are read member by member."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from json import JSONDecoder
from typing import Any, Final

from gradtool.core import json_text
from gradtool.errors import CorruptFileError

_MEMBER_CHARS: Final = 4096
"""The longest value that is read: a tensor of 64 dimensions takes less than half."""

_STRINGS: Final = JSONDecoder()
_SPACE: Final = re.compile(r"[ \t\n\r]*")
# By far most members: a key without escapes, an object without objects, a comma.
_PLAIN: Final = re.compile(
    r'[ \t\n\r]*"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*'
    rf"(\{{[^{{}}]{{0,{_MEMBER_CHARS}}}\}})[ \t\n\r]*,"
)


def parse_object(document: bytes | str, path: str, what: str) -> dict[str, Any]:
    """The JSON object in `document`; CorruptFileError if it is none, or ambiguous, or too large."""
    text = document if isinstance(document, str) else _decoded(document, path, what)
    try:
        parsed = json_text.parse(text)
    except ValueError as error:
        raise CorruptFileError(path, f"{what} is not valid JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise CorruptFileError(path, f"{what} is no JSON object")
    return parsed


def _decoded(data: bytes, path: str, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFileError(path, f"{what} is not UTF-8", byte=error.start) from error


def read_members(
    data: bytes, path: str, what: str, *, texts: str, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, str | dict[str, str] | None]]:
    """The members of a JSON object whose values are objects themselves, one after another.

    One value is cut out at a time, and only if it is short and flat, so that a header of a hundred
    megabytes takes no more memory than its text and what its caller keeps.

    Args:
        data: the document, in UTF-8.
        path: the file's path, for errors.
        what: what the document is, for errors.
        texts: the key of a map of strings, which may be long, and may be null.
        wanted: whether an entry of that map is to be kept.

    Yields:
        Key and value: the text of an object, which the caller parses, or the map itself. A value
        that is not short and flat is None, and the last one.

    Raises:
        CorruptFileError: no JSON, or not of that form. Keys that repeat are the caller's to find.
    """
    text = _decoded(data, path, what)
    del data  # as large as the text
    try:
        yield from _members(text, texts, wanted)
    except ValueError as error:
        raise CorruptFileError(path, f"{what} is not valid JSON: {error}") from error


def _members(
    text: str, texts: str, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, str | dict[str, str] | None]]:
    position = _after(text, 0, "{")
    more = not text.startswith("}", _skip_space(text, position))
    while more:
        plain = _PLAIN.match(text, position)
        if plain is not None and plain[1] != texts:
            yield plain[1], plain[2]
            position = plain.end()
            continue
        key, position = _string(text, position)
        position = _skip_space(text, _after(text, position, ":"))
        value: str | dict[str, str] | None
        value, end = _texts(text, position, wanted) if key == texts else _object(text, position)
        yield key, value
        if end < 0:
            return
        position = _skip_space(text, end)
        more = text.startswith(",", position)
        position += more
    end = _after(text, position, "}")
    if _skip_space(text, end) < len(text):
        raise ValueError(f"something follows its end at character {end}")


def _object(text: str, start: int) -> tuple[str | None, int]:
    """The text of the short, flat object at `start`, and its end; None and -1 for anything else."""
    end = text.find("}", start, start + _MEMBER_CHARS) + 1
    if not text.startswith("{", start) or not end:
        return None, -1
    return text[start:end], end


def _texts(
    text: str, position: int, wanted: Callable[[str], bool]
) -> tuple[dict[str, str] | None, int]:
    """The wanted entries of the map of strings at `position`, and its end; None for a null."""
    if text.startswith("null", position):
        return None, position + 4
    position = _after(text, position, "{")
    entries: dict[str, str] = {}
    more = not text.startswith("}", _skip_space(text, position))
    while more:
        key, position = _string(text, position)
        position = _skip_space(text, _after(text, position, ":"))
        if not text.startswith('"', position):
            raise ValueError(f"no map of strings: there is none at character {position}")
        value, position = _string(text, position)
        if wanted(key):
            if key in entries:
                raise ValueError(f"duplicate key {key!r:.80}")
            entries[key] = value
        position = _skip_space(text, position)
        more = text.startswith(",", position)
        position += more
    return entries, _after(text, position, "}")


def _string(text: str, position: int) -> tuple[str, int]:
    """The string that comes next, spaces aside, and its end."""
    value: str
    start = _after(text, position, '"') - 1
    value, end = _STRINGS.raw_decode(text, start)
    if not json_text.is_unicode(value):
        raise ValueError(f"a string that is no valid Unicode at character {position}")
    return value, end


def _after(text: str, position: int, mark: str) -> int:
    """The position after `mark`, which has to come next, spaces aside."""
    position = _skip_space(text, position)
    if not text.startswith(mark, position):
        raise ValueError(f"{mark!r} expected at character {position}")
    return position + 1


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position
