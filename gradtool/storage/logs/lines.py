"""The lines of a log, whichever of four forms it has; each is checked to be what it seems.

A JSON document is Trainer's `trainer_state.json`, or a list of objects; JSON lines have an object
each; torchtune's DiskLogger writes `Step 1 | loss:2.5 grad_norm:0.5`; all else is CSV under a line
of names.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import IO, Any, Final, NamedTuple, TypeAlias

from gradtool.core import json_text
from gradtool.core.figures import counted
from gradtool.errors import CorruptFileError, FileAccessError
from gradtool.storage.logs.nested import entries_of

LARGEST: Final = 1 << 28
"""Bytes of a log: ten million short lines."""

LARGEST_DOCUMENT: Final = 1 << 26
"""Bytes of a JSON document, which is read as a whole."""

LONGEST_LINE: Final = 1 << 20
_MOST_LINES: Final = 64
_BOM: Final = b"\xef\xbb\xbf"
_HISTORY: Final = "log_history"
_STEP: Final = re.compile(r"Step ([0-9]{1,18}) \|(?=\s)")

Fields: TypeAlias = Mapping[str, Any]


class Line(NamedTuple):
    """What one line of a log says, and where it stands in the file, in words."""

    where: str
    fields: Fields


class Cut(NamedTuple):
    """A last line that breaks off, as one that is being written does."""

    where: str


def lines_of(path: str) -> Iterator[Line | Cut]:
    """The lines of a log in their order.

    Raises FileAccessError for a file that cannot be read, and CorruptFileError, naming the line,
    for one that is none of the four forms, or larger than any log.
    """
    try:
        with open(path, "rb") as file:
            yield from _lines(path, file)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise FileAccessError(path, f"cannot be read: {reason}") from error


def _lines(path: str, file: IO[bytes]) -> Iterator[Line | Cut]:
    texts = _texts(path, file)
    blank: list[str] = []
    for first in texts:
        if first.strip():
            break
        blank.append(first)
    else:
        raise CorruptFileError(path, "is empty, and no log")
    start = len(blank) + 1
    head = first.lstrip()
    if head.startswith("{") and _is_json_lines(first):
        yield from _json_lines(path, first, texts, start)
    elif head.startswith(("{", "[")):
        yield from _document(path, [*blank, first], texts)
    elif _STEP.match(first):
        yield from _step_lines(path, first, texts, start)
    else:
        yield from _csv(path, first, texts, start)


def _texts(path: str, file: IO[bytes]) -> Iterator[str]:
    """The lines of a file as text, with their ends."""
    read = number = 0
    while data := file.readline(LONGEST_LINE + 1):
        number += 1
        if number == 1:
            data = data.removeprefix(_BOM)
        if len(data) > LONGEST_LINE and number == 1 and data.lstrip().startswith((b"{", b"[")):
            data += file.readline(LARGEST_DOCUMENT)  # a document may well be one line
        elif len(data) > LONGEST_LINE:
            raise CorruptFileError(path, f"line {number:,} is longer than {LONGEST_LINE:,} bytes")
        read += len(data)
        if read > LARGEST:
            raise CorruptFileError(path, f"is larger than {LARGEST:,} bytes: no log")
        try:
            yield data.decode()
        except UnicodeDecodeError as error:
            raise CorruptFileError(path, f"line {number:,} is not UTF-8") from error


def _is_json_lines(first: str) -> bool:
    """Whether the first line is an object by itself, and none that holds the others."""
    try:
        found = json_text.parse(first, nonfinite=True)
    except ValueError:
        return first.rstrip().endswith("}")
    return isinstance(found, dict) and _HISTORY not in found


def _json_lines(path: str, first: str, texts: Iterator[str], start: int) -> Iterator[Line | Cut]:
    for number, text in enumerate(chain([first], texts), start):
        if not text.strip():
            continue
        where = f"line {number:,}"
        try:
            found = json_text.parse(text, nonfinite=True)
        except ValueError as error:
            if not text.endswith("\n"):  # so it is the last
                yield Cut(where)
                return
            raise CorruptFileError(path, f"{where} is no JSON: {_said(error)}") from error
        if not isinstance(found, dict):
            raise CorruptFileError(path, f"{where} is no JSON object")
        yield _line(path, where, found)


def _line(path: str, where: str, found: Fields) -> Line:
    try:
        return Line(where, entries_of(found))
    except ValueError as error:
        raise CorruptFileError(path, f"{where} {error}") from error


def _step_lines(path: str, first: str, texts: Iterator[str], start: int) -> Iterator[Line | Cut]:
    """Those of torchtune's DiskLogger."""
    for number, text in enumerate(chain([first], texts), start):
        where = f"line {number:,}"
        if not text.endswith("\n"):  # it writes the end of a line with the line
            yield Cut(where)
        elif text.strip():
            yield Line(where, _fields_of_step(path, where, text))


def _fields_of_step(path: str, where: str, text: str) -> Fields:
    head = _STEP.match(text)
    if head is None:
        raise CorruptFileError(path, f"{where} does not begin as the first, with 'Step 1 | '")
    fields: dict[str, Any] = {"Step": head[1]}
    for word in text[head.end() :].split():
        name, colon, value = word.rpartition(":")
        if not colon or not name:
            raise CorruptFileError(path, f"{where}: {word!r:.80} is no name with a value")
        if name in fields:
            raise CorruptFileError(path, f"{where} has two entries {name!r:.80}")
        fields[name] = value
    return fields


def _document(path: str, before: list[str], texts: Iterator[str]) -> Iterator[Line]:
    parts, size = before, sum(map(len, before))
    for text in texts:
        parts.append(text)
        size += len(text)
        if size > LARGEST_DOCUMENT:
            raise CorruptFileError(path, f"is a JSON document of over {LARGEST_DOCUMENT:,} bytes")
    try:
        found = json_text.parse("".join(parts), nonfinite=True)
    except ValueError as error:
        raise CorruptFileError(path, f"is no JSON: {error}") from error
    entries, name = found, "entry"
    if isinstance(found, dict):
        if _HISTORY not in found:
            raise CorruptFileError(path, f"is a JSON object without {_HISTORY!r}")
        entries, name = found[_HISTORY], f"{_HISTORY}: entry"
    if not isinstance(entries, list):
        raise CorruptFileError(path, f"{_HISTORY!r} is no list")
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise CorruptFileError(path, f"{name} {number:,} is no JSON object")
        yield _line(path, f"{name} {number:,}", entry)


def _csv(path: str, first: str, texts: Iterator[str], start: int) -> Iterator[Line | Cut]:
    fed = _Fed(path, chain([first], texts))
    reader = csv.reader(fed, strict=True)
    try:
        header = next(reader)
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise CorruptFileError(path, f"line {start:,} names the column {twice!r:.80} twice")
        for row in reader:
            fed.of_row = 0
            where = f"line {start - 1 + reader.line_num:,}"
            if len(row) == len(header):
                yield Line(where, dict(zip(header, row, strict=True)))
            elif len(row) < len(header) and not fed.last.endswith(("\n", "\r")):
                yield Cut(where)
            elif row:
                problem = (
                    f"{where} has {counted(len(row), 'field')}, and the header {len(header):,}"
                )
                raise CorruptFileError(path, problem)
    except csv.Error as error:
        if str(error) == "unexpected end of data":
            yield Cut(f"line {start - 1 + reader.line_num:,}")
            return
        where = f"line {start - 1 + reader.line_num:,}"
        raise CorruptFileError(path, f"{where} is no CSV: {error}") from error


class _Fed:
    """Lines for the parser of CSV: the last one given, and how many a row consists of so far."""

    def __init__(self, path: str, texts: Iterator[str]) -> None:
        self.last = ""
        self.of_row = 0
        self._path = path
        self._texts = texts

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.last = next(self._texts)
        self.of_row += 1
        if self.of_row > _MOST_LINES:  # or one row would take all memory
            raise CorruptFileError(self._path, f"has a row of over {_MOST_LINES:,} lines")
        return self.last


def _said(error: ValueError) -> str:
    """What is wrong, without the place that a parser of one line counts."""
    return str(error).partition(": line ")[0]
