"""What readers of each format make of a report: JSON, CSV, Markdown, JUnit, a CI's runner."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

import jsonschema
import xmlschema
from markdown_it import MarkdownIt
from markdown_it.token import Token

JUNIT = xmlschema.XMLSchema(Path(__file__).parents[1] / "report_schemas" / "junit-10.xsd")


@cache
def validator(name: str) -> Any:
    """Of JSON reports: of `inspect-1`, say."""
    text = (files("gradtool.report") / "schemas" / f"{name}.schema.json").read_text("utf-8")
    return jsonschema.Draft202012Validator(json.loads(text))


def strict_json(text: str) -> Any:
    """What a reader that knows no NaN makes of it."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def flattened(place: str, value: object) -> Iterator[tuple[str, object]]:
    """Every value in JSON, with the keys and positions that lead to it."""
    items: Iterable[tuple[object, object]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        yield place, value
    for key, item in items:
        yield from flattened(f"{place}/{key}".removeprefix("/"), item)


def recovered(cell: str) -> str:
    """The text that a cell of CSV was made of, as the documents say."""
    spelled = cell.removeprefix("'")
    return spelled.encode("latin-1", "backslashreplace").decode("unicode_escape")


class Block(NamedTuple):
    """A line or cell of Markdown, as a reader sees it.

    `tags` are those of the blocks that it is in, `marks` those in it. `table` counts from 0,
    `row` too, but in a header.
    """

    tags: tuple[str, ...]
    marks: tuple[str, ...]
    shown: str
    table: int = -1
    row: int = -1
    column: int = -1


_MARKDOWN = MarkdownIt("commonmark").enable("table")
_HTML = {"<details><summary>Judged by</summary>", "</details>"}


def markdown_blocks(text: str) -> Iterator[Block]:
    """All lines and cells; no HTML but ours is in them."""
    tags: list[str] = []
    table = row = column = -1
    for token in _MARKDOWN.parse(text):
        if token.nesting == 1:
            tags.append(token.tag)
            table += token.tag == "table"
            row = {"table": -2, "tr": row + 1}.get(token.tag, row)
            column = {"tr": -1, "th": column + 1, "td": column + 1}.get(token.tag, column)
        elif token.nesting == -1:
            tags.pop()
        elif token.type == "inline":
            yield Block(tuple(tags), *_inline(token), table, row, column)
        else:
            shown = token.content.strip()
            assert token.type != "html_block" or shown in _HTML
            yield Block((*tags, token.type), (), shown)


def _inline(token: Token) -> tuple[tuple[str, ...], str]:
    """What marks a line has, and its text; in whichever way text is code does not matter."""
    children = token.children or []
    marks = [child.type for child in children if child.type not in ("text", "code_inline")]
    html = [child.content for child in children if child.type == "html_inline"]
    assert {*html} <= {"<code>", "</code>"}
    shown = "".join(child.content for child in children if child.type != "html_inline")
    return tuple(mark for mark in marks if mark != "html_inline"), shown


def markdown_tables(text: str) -> list[list[list[str]]]:
    """Rows of cells of each table, its header the first of them."""
    found: list[list[list[str]]] = []
    for block in markdown_blocks(text):
        if block.tags[-1] in ("th", "td"):
            if block.table == len(found):
                found.append([])
            if block.column == 0:
                found[-1].append([])
            found[-1][-1].append(block.shown)
    return found


class Page(HTMLParser):
    """A page of HTML as a reader sees it.

    Attributes:
        blocks: each element of text, with the tags that it is in as `marks`.
        asked_for: whatever a browser would load, run or follow.
        policies: what pages may load, as they say it.
        styles: the style sheets.
    """

    _VOID = frozenset({"meta", "br"})
    _HARMLESS = frozenset(
        {
            *("html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "dl"),
            *("dt", "dd", "div", "table", "thead", "tbody", "tr", "th", "td", "svg", "rect"),
            *("ul", "li", "text", "path"),
        }
    )

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[Block] = []
        self.asked_for: list[str] = []
        self.policies: list[str] = []
        self.styles: list[str] = []
        self._open: list[str] = []
        self._table = self._row = self._column = -1
        self._text = ""
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._end_of_text()
        found = dict(attrs)
        self.asked_for += [tag] if tag not in self._HARMLESS else []
        self.asked_for += [k for k in found if k in ("src", "href", "style") or k.startswith("on")]
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policies.append(str(found["content"]))
        self._table += tag == "table"
        self._row = {"table": -2, "tr": self._row + 1}.get(tag, self._row)
        self._column = {"tr": -1, "th": self._column + 1, "td": self._column + 1}.get(
            tag, self._column
        )
        if tag not in self._VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self._VOID:
            is_cell = tag in ("th", "td")
            self._end_of_text(keep_empty=is_cell or tag == "dd")
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def _end_of_text(self, *, keep_empty: bool = False) -> None:
        text, self._text = self._text, ""
        if self._open[-1:] == ["style"]:
            self.styles.append(text)
        elif keep_empty or text.strip():
            tags = (*self._open[-1:],)
            self.blocks.append(Block(tags, (), text, self._table, self._row, self._column))


def junit_root(text: str) -> ET.Element:
    """The root of a report that Jenkins and Ant take."""
    assert text.isascii()
    JUNIT.validate(text)
    root = ET.fromstring(text)  # noqa: S314 - our own text
    _assert_ant_takes(root)
    return root


def _assert_ant_takes(root: ET.Element) -> None:
    """What the schema of Ant's reports (windyroad's JUnit.xsd) asks for beyond Jenkins's."""
    assert root.attrib == {}
    for number, suite in enumerate(root):
        assert suite.attrib.keys() == {
            "name", "package", "id", "timestamp", "hostname", "tests", "failures", "errors",
            "skipped", "time",
        }  # fmt: skip
        assert suite.get("id") == str(number)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp", ""))
        assert suite.get("name", "").strip()
        assert float(suite.get("time", "")) >= 0.0
        kinds = [child.tag for child in suite]
        cases = kinds.count("testcase")
        assert kinds == ["properties", *["testcase"] * cases, "system-out", "system-err"]
        for case in suite.iter("testcase"):
            assert case.attrib.keys() == {"name", "classname", "time"}
            assert [child.tag for child in case] in ([], ["failure"], ["skipped"])
        for failure in suite.iter("failure"):
            assert failure.attrib.keys() == {"type", "message"}


def elements(place: str, element: ET.Element) -> Iterator[tuple[str, object]]:
    """Every attribute of an element and of those in it but the time, and every line of text."""
    place = f"{place}/{element.tag}"
    for key, value in element.attrib.items():
        if key != "timestamp":
            yield f"{place}@{key}", value
    for number, line in enumerate((element.text or "").split("\n")):
        yield f"{place} line {number}", line
    for number, child in enumerate(element):
        yield from elements(f"{place}/{number}", child)


_COMMAND = re.compile(r"::(\w+) ([^\r\n]*?)::([^\r\n]*)")
_ESCAPES = {"%25": "%", "%0D": "\r", "%0A": "\n", "%3A": ":", "%2C": ","}


def workflow_commands(text: str) -> list[tuple[str, dict[str, str], str]]:
    """What a runner makes of the report: each line that begins with `::` up to the next `::`.

    The last line is for people, and no command.
    """
    *lines, last = text[:-1].split("\n")
    assert obeyed(last) == []
    found = []
    for line in lines:
        match = _COMMAND.fullmatch(line)
        assert match is not None, line
        assert match[1] in ("error", "warning", "notice")
        pairs = [pair.split("=", 1) for pair in match[2].split(",")]
        assert {key for key, _ in pairs} <= {"file", "title"}
        message = _unescaped(match[3])
        assert not message.lstrip().startswith("::")
        found.append((match[1], {k: _unescaped(v) for k, v in pairs}, message))
    return found


def _unescaped(text: str) -> str:
    return re.sub("%25|%0D|%0A|%3A|%2C", lambda found: _ESCAPES[found[0]], text)


def obeyed(text: str) -> list[str]:
    """Lines that GitHub's runner obeys, blanks before them or not."""
    return [
        line for line in re.split("[\r\n]", text) if re.match(r"\s*::.*::", line) or "##[" in line
    ]
