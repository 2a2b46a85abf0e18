"""JSON in files: documents, and the header of a file as a stream of its members."""

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
    """The JSON object in `document`; CorruptFileError for anything else, ambiguous, or a bomb."""
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

    One value is cut out at a time, and only if it is short and flat: a header of a hundred
    megabytes costs what its caller keeps of it.

    Args:
        data: the document, in UTF-8.
        path: the file's, for errors.
        what: what the document is, for errors.
        texts: the key of a map of strings, which may be long, and may be null.
        wanted: whether an entry of that map is to be kept.

    Yields:
        Key and text of the value, which is the caller's to parse; the map itself; None for a value
        that is neither short nor flat, and then nothing more.

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
    at = _after(text, 0, "{")
    more = not text.startswith("}", _skip_space(text, at))
    while more:
        plain = _PLAIN.match(text, at)
        if plain is not None and plain[1] != texts:
            yield plain[1], plain[2]
            at = plain.end()
            continue
        key, at = _string(text, at)
        at = _skip_space(text, _after(text, at, ":"))
        value: str | dict[str, str] | None
        value, end = _texts(text, at, wanted) if key == texts else _object(text, at)
        yield key, value
        if end < 0:
            return
        at = _skip_space(text, end)
        more = text.startswith(",", at)
        at += more
    end = _after(text, at, "}")
    if _skip_space(text, end) < len(text):
        raise ValueError(f"something follows its end at character {end}")


def _object(text: str, at: int) -> tuple[str | None, int]:
    """The text of the short, flat object at `at`, and its end; None and -1 for anything else."""
    end = text.find("}", at, at + _MEMBER_CHARS) + 1
    if not text.startswith("{", at) or not end:
        return None, -1
    return text[at:end], end


def _texts(text: str, at: int, wanted: Callable[[str], bool]) -> tuple[dict[str, str] | None, int]:
    """The wanted entries of the map of strings at `at`, and its end; None for a null."""
    if text.startswith("null", at):
        return None, at + 4
    at = _after(text, at, "{")
    found: dict[str, str] = {}
    more = not text.startswith("}", _skip_space(text, at))
    while more:
        key, at = _string(text, at)
        at = _skip_space(text, _after(text, at, ":"))
        if not text.startswith('"', at):
            raise ValueError(f"no map of strings: there is none at character {at}")
        value, at = _string(text, at)
        if wanted(key):
            if key in found:
                raise ValueError(f"duplicate key {key!r:.80}")
            found[key] = value
        at = _skip_space(text, at)
        more = text.startswith(",", at)
        at += more
    return found, _after(text, at, "}")


def _string(text: str, at: int) -> tuple[str, int]:
    value: str
    start = _after(text, at, '"') - 1
    value, end = _STRINGS.raw_decode(text, start)
    if not json_text.is_unicode(value):
        raise ValueError(f"a string that is no valid Unicode at character {at}")
    return value, end


def _after(text: str, at: int, mark: str) -> int:
    """The position after `mark`, which comes next."""
    at = _skip_space(text, at)
    if not text.startswith(mark, at):
        raise ValueError(f"{mark!r} expected at character {at}")
    return at + 1


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
