"""Formats of reports: what each promises, and what stands where in it."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from typing import Any, ClassVar

from gradtool.report.diff.columns import COLUMNS as DIFF_COLUMNS
from gradtool.report.escaping import visible
from gradtool.report.formats import csv as formats_csv
from gradtool.report.inspect.columns import COLUMNS as INSPECT_COLUMNS
from gradtool.report.listing import csv as listing_csv
from gradtool.report.trend import rows as trend_rows
from reports.parsers import (
    Page,
    elements,
    flattened,
    junit_root,
    markdown_blocks,
    recovered,
    strict_json,
    validator,
    workflow_commands,
)

Reading = list[tuple[str, object]]
"""Places in a report, in order, and what stands there."""

_HEADS = {
    "name": "tensors",
    "group": "groups",
    "section": "sections",
    "path": "checkpoints",
    "step": "steps",
    "tensor": "parts",
}
"""What the rows of a table are, by the header of its first column."""

_FIELDS = {
    "L2 norm": "norm", "max |g|": "max_abs", "max |x|": "max_abs",
    "NaN": "nan", "+Inf": "posinf", "-Inf": "neginf",
    "norm before": "finite_norm", "after": "finite_norm_after",
}  # fmt: skip
_OTHER_HEADERS = {
    *("dtype", "shape", "zeros", "holds", "tensors", "elements"),
    *("step", "layout", "files", "size"),
    *("differ", "rel L2", "cosine", "best scale", "max |b-a|", "norm of A", "of B"),
    *("native", "non-finite", "clip_coef", "findings", "share", "largest"),
    *("steps", "first norm", "last", "largest", "in", "last share"),
}
_LISTED = re.compile(r"(.*?) +(-|\d+)  (cannot be read|\S+) +(-|[\d,]+) +(-|[\d.]+ +\w+)")
"""A row of a list of checkpoints, in whose cells there are blanks."""

_NUMBER = r"(-|NaN|-?Infinity|[\d.,]+(?:e[-+]\d+)?)"
_STEP = re.compile(
    rf"(.*?) *{_NUMBER} +{_NUMBER} +{_NUMBER} +{_NUMBER} +(GT\d+(?:\+\d)?|-) +(-|[\d.]+%) *(.*)"
)
"""A row of a table of steps, of which the first cell and the last may hold blanks."""


class ReportFormat:
    """A format, and what it promises.

    Attributes:
        is_for_people: whether it heeds widths, cuts what is long and leaves out what is much.
        is_for_terminals: whether lines fit a width and may be coloured.
        is_exact: whether texts are read back as they are, and not as they are shown.
        is_obeyed: whether its lines are commands to a CI's runner.
        figure_places: places of numbers that it holds, as a pattern.
        digits: how many significant ones a norm has; None for all.
        longest_line: characters at most, whatever is in the files; None for no bound.
        infinity: its word for it.
        clock: what of it differs from one second to the next.
    """

    is_for_people: ClassVar[bool] = False
    is_for_terminals: ClassVar[bool] = False
    is_exact: ClassVar[bool] = False
    is_obeyed: ClassVar[bool] = False
    figure_places: ClassVar[str] = "(?!)"
    digits: ClassVar[int | None] = None
    longest_line: ClassVar[int | None] = None
    clock: ClassVar[str] = "(?!)"
    infinity: ClassVar[str] = "Infinity"

    def read(self, text: str) -> Reading:
        """What stands where; AssertionError where it is not of this format."""
        raise NotImplementedError

    def spelled(self, text: str) -> str:
        """A text from a file, as it is read back."""
        return visible(text)

    def number(self, found: object) -> float:
        """The number that stands there, spelled as promised."""
        word = str(found)
        assert re.match(rf"-?\d|NaN$|-?{self.infinity}$", word), word
        return float(word)


class Json(ReportFormat):
    is_exact = True
    figure_places = ""

    def read(self, text: str) -> Reading:
        if text.startswith('{"schema": "gradtool.listing/1"'):
            return self._read_lists(text)
        result = _valid(text)
        reports = result.pop("reports", [])
        found = [*flattened("", result)]
        for number, report in enumerate(reports):
            for key, value in report.items():
                found += flattened(f"{key}/{number}", value)
        return found

    def _read_lists(self, text: str) -> Reading:
        """A list of checkpoints is a line."""
        found: Reading = []
        for number, line in enumerate(text.splitlines()):
            for key, value in _valid(line).items():
                found += flattened(f"{key}/{number}", value)
        return found

    def spelled(self, text: str) -> str:
        """Exactly it, but that two halves of a character are that character."""
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def _valid(text: str) -> Any:
    """What JSON of one of our schemas says."""
    result = strict_json(text)
    validator(result["schema"].removeprefix("gradtool.").replace("/", "-")).validate(result)
    return result


class Csv(ReportFormat):
    is_exact = True
    figure_places = "tensors/"
    infinity = "inf"

    def read(self, text: str) -> Reading:
        found: Reading = []
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        heads = (listing_csv.HEADER, formats_csv.HEADER, DIFF_COLUMNS, trend_rows.COLUMNS)
        if reader.fieldnames in [[*head] for head in heads]:
            for number, row in enumerate(reader):
                cells = ((column, recovered(cell)) for column, cell in row.items())
                found += [(f"rows/{number}/{column}", cell) for column, cell in cells]
            return found
        rows: Counter[str] = Counter()
        for row in reader:
            assert row.keys() == set(INSPECT_COLUMNS), "more or fewer cells than columns"
            path = row["path"]
            rows[path] += 1
            place = f"tensors/{list(rows).index(path)}/{rows[path] - 1}"
            for column, cell in row.items():
                is_text = column in ("path", "name", "section", "alias_of")
                found.append((f"{place}/{column}", recovered(cell) if is_text else cell))
        return found

    def spelled(self, text: str) -> str:
        return text


class _ForPeople(ReportFormat):
    is_for_people = True
    digits = 5
    figure_places = "(tensors|groups|sections)/.*/(norm|max_abs|nan|posinf|neginf)$"

    def number(self, found: object) -> float:
        word = str(found).replace(",", "")
        return 0.0 if word == "-" else super().number(word)


class Table(_ForPeople):
    """Lines; those of a table are cut at the columns of its header, from the right."""

    is_for_terminals = True
    longest_line = 1250

    def read(self, text: str) -> Reading:
        found: Reading = []
        tables: Counter[str] = Counter()
        headers: list[str] = []
        for number, line in enumerate(text.split("\n")):
            words = re.split(" {2,}", line)
            if words[0] in _HEADS and {*words[1:]} <= _FIELDS.keys() | _OTHER_HEADERS:
                headers, row = words, 0
                kind = _HEADS[words[0]]
                place = f"{kind}/{tables[kind]}"
                tables[kind] += 1
            elif headers and line and not re.fullmatch(r"… .* more\b.* \(--all shows them\)", line):
                cells = line.rsplit(None, len(headers) - 1)
                if kind == "checkpoints":
                    cells = [*_LISTED.fullmatch(line).groups()]
                if kind == "steps" and len(headers) == 8:
                    cells = [*_STEP.fullmatch(line).groups()]
                if len(cells) == len(headers) - 1:  # the name is blank
                    cells.insert(0, "")
                found += _cells(f"{place}/{row}", headers, cells)
                row += 1
            else:
                headers = []
                found.append((f"line {number}", line))
        return found


class Text(Table):
    figure_places = "(?!)"
    longest_line = 550


class Markdown(_ForPeople):
    longest_line = 17_500

    def read(self, text: str) -> Reading:
        found: Reading = []
        tables: Counter[str] = Counter()
        headers: list[str] = []
        for block in markdown_blocks(text):
            if block.tags[-1] == "th":
                headers = [*(headers if block.column else []), block.shown]
                tables[headers[0]] += not block.column
            elif block.tags[-1] == "td":
                kind = _HEADS.get(headers[0], headers[0])
                column = headers[block.column]
                place = f"{kind}/{tables[headers[0]] - 1}/{block.row}/{_FIELDS.get(column, column)}"
                found.append(("/".join([place, *block.marks]), block.shown))
            else:
                found.append(("/".join([*block.tags, *block.marks]), block.shown))
        return found


class Html(_ForPeople):
    longest_line = 5_000

    def read(self, text: str) -> Reading:
        page = Page(text)
        assert page.asked_for == []
        found: Reading = []
        tables: Counter[str] = Counter()
        headers: list[str] = []
        for block in page.blocks:
            (tag,) = block.tags
            if tag not in ("th", "td"):
                found.append((tag, block.shown))
            elif block.row < 0:
                headers = [*(headers if block.column else []), block.shown]
                tables[headers[0]] += not block.column
            else:
                column = headers[block.column]
                kind = _HEADS.get(headers[0], headers[0])
                place = f"{kind}/{tables[headers[0]] - 1}/{block.row}"
                found.append((f"{place}/{_FIELDS.get(column, column)}", block.shown))
        return found


class Junit(ReportFormat):
    clock = r'timestamp="[^"]*"'

    def read(self, text: str) -> Reading:
        return [*elements("", junit_root(text))]


class Github(ReportFormat):
    is_for_people = True
    is_obeyed = True
    longest_line = 500

    def read(self, text: str) -> Reading:
        found: Reading = []
        for number, (kind, properties, message) in enumerate(workflow_commands(text)):
            found += [(f"{number} {kind} {key}", value) for key, value in properties.items()]
            found.append((f"{number} {kind}", message))
        return [*found, ("conclusion", text[:-1].rpartition("\n")[2])]


def _cells(place: str, headers: list[str], cells: list[str]) -> Reading:
    return [
        (f"{place}/{_FIELDS.get(header, header)}", cell)
        for header, cell in zip(headers, cells, strict=True)
    ]


FORMATS: dict[str, ReportFormat] = {
    "table": Table(),
    "text": Text(),
    "json": Json(),
    "csv": Csv(),
    "markdown": Markdown(),
    "html": Html(),
    "junit": Junit(),
    "github": Github(),
}
