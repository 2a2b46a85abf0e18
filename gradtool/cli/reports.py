"""The reports that a command writes: their formats, and where each goes."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from gradtool.cli.console import Display, append_result, say_error, write_result
from gradtool.cli.paths import is_among
from gradtool.errors import FileAccessError, UsageError
from gradtool.report.model import Style
from gradtool.storage.links import target_path

_STDOUT = ("-", "/dev/stdout")
_FOR_PROGRAMS = ("json", "csv", "junit", "github", "html")
_SYNONYMS = {"text": "table", "table": "text"}
"""Both words mean the format for people; a command knows one of them."""


@dataclass(frozen=True, slots=True)
class Sink:
    """One report to write.

    Attributes:
        format: name of its format.
        file: path to write to; None for stdout.
        option: the option that asked for it, for messages.
        appended: whether it is appended to the file.
    """

    format: str
    file: str | None
    option: str
    appended: bool = False


@dataclass(frozen=True, slots=True)
class Reports:
    """All reports that a command is to write, each to another place."""

    sinks: tuple[Sink, ...]

    @property
    def people_read_stdout(self) -> bool:
        """Whether a report for people goes there."""
        return any(sink.file is None and sink.format not in _FOR_PROGRAMS for sink in self.sinks)

    def with_step_summary(self) -> Reports:
        """The reports, and with `-f github` one in the file of GitHub's step summary.

        None is added if a report for that file was asked for already.
        """
        file = os.environ.get("GITHUB_STEP_SUMMARY")
        if not file or all(sink.format != "github" for sink in self.sinks):
            return self
        if any(sink.file and target_path(sink.file) == target_path(file) for sink in self.sinks):
            return self
        return Reports((*self.sinks, Sink("markdown", file, "GITHUB_STEP_SUMMARY", appended=True)))

    def refuse_to_replace(self, files: Iterable[str]) -> None:
        """Raise UsageError if a report would replace one of `files`, or a part of one."""
        existing = any(sink.file is not None and os.path.exists(sink.file) for sink in self.sinks)
        parts = list(_with_parts(files)) if existing else []
        for sink in self.sinks:
            if sink.file is not None and is_among(sink.file, parts):
                raise UsageError(f"{sink.option} is one of the files to read")

    def refuse_inside(self, path: str) -> None:
        """Raise UsageError if a report lies at or in `path`, where the command writes a result."""
        place = target_path(path)
        for sink in self.sinks:
            if sink.file is not None and f"{target_path(sink.file)}/".startswith(f"{place}/"):
                raise UsageError(f"{sink.option} lies in {path}, which is written too")

    def write(self, render: Callable[[str, Style], str], display: Display) -> None:
        """Write all reports, each the text that `render` gives for its format and style.

        Raises FileAccessError for one that cannot be written, after the others are.
        """
        failures: list[FileAccessError] = []
        for sink in self.sinks:
            text = render(sink.format, display.style(sink.file))
            try:
                if sink.appended and sink.file is not None:
                    append_result(text, sink.file)
                else:
                    write_result(text, sink.file)
            except FileAccessError as error:
                failures.append(error)  # the others are still written
        for failure in failures[1:]:
            say_error(failure)
        if failures:
            raise failures[0]


def read_reports(
    valid: Collection[str], formats: Sequence[str] | None, output: str | None = None
) -> Reports:
    """The reports that `-f FORMAT[:FILE]` and `-o FILE` ask for; the first valid format by default.

    Raises UsageError for a format that is not valid, or two reports that go to one place.
    """
    default, *_ = valid
    sinks = [_sink(text, valid) for text in formats or [default]]
    if output is not None:
        if len(sinks) > 1 or sinks[0].file is not None:
            problem = "--output is the file of the only format"
            raise UsageError(problem, hint="give -f FORMAT:FILE for each")
        sinks = [Sink(sinks[0].format, _file(output), f"--output {output}")]
    places = [None if sink.file is None else target_path(sink.file) for sink in sinks]
    for sink, place in zip(sinks, places, strict=True):
        if places.count(place) > 1:
            where = "stdout" if sink.file is None else sink.file
            raise UsageError(f"two reports cannot both go to {where}", hint="give -f FORMAT:FILE")
    return Reports(tuple(sinks))


def _sink(text: str, valid: Collection[str]) -> Sink:
    word, colon, file = text.partition(":")
    name = word if word in valid else _SYNONYMS.get(word, word)
    if name not in valid:
        raise UsageError(f"--format {word!r}: give one of {', '.join(valid)}")
    if colon and not file:
        raise UsageError(f"--format {text!r}: there is no file after the colon")
    return Sink(name, _file(file) if colon else None, f"--format {text}")


def _file(name: str) -> str | None:
    return None if name in _STDOUT else name


def _with_parts(paths: Iterable[str]) -> Iterator[str]:
    """All of `paths`, and the tensor files in each directory and beside each index among them."""
    from gradtool.formats.files import is_tensor_file  # noqa: PLC0415 - loads much, as --help must not

    for path in paths:
        yield path
        folder = path if os.path.isdir(path) else os.path.dirname(path) or os.curdir
        if os.path.isdir(path) or path.endswith(".json"):
            with suppress(OSError):  # reading it will say so
                for name in os.listdir(folder):
                    if is_tensor_file(name) or name.lower().endswith(".index.json"):
                        yield os.path.join(folder, name)
