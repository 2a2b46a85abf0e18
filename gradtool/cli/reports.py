"""Reports: in which formats they were asked for, and where each of them goes."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from gradtool.cli.console import Showing, append_result, say_error, write_result
from gradtool.cli.paths import is_among
from gradtool.errors import FileAccessError, UsageError
from gradtool.report.model import Style
from gradtool.storage.links import target_path

_STDOUT = ("-", "/dev/stdout")
_ALIKE = {"text": "table", "table": "text"}
"""Two words for one thing: what people read."""


@dataclass(frozen=True, slots=True)
class Sink:
    """A format to report in, the file to write to (None for stdout), and how it was asked for."""

    format: str
    file: str | None
    asked: str
    appended: bool = False


@dataclass(frozen=True, slots=True)
class Reports:
    """All that was asked for, each in a place of its own."""

    sinks: tuple[Sink, ...]

    def spare(self, files: Iterable[str]) -> None:
        """Raise UsageError if a report would replace one of `files`, or a part of one."""
        existing = any(sink.file is not None and os.path.exists(sink.file) for sink in self.sinks)
        parts = list(_with_parts(files)) if existing else []
        for sink in self.sinks:
            if sink.file is not None and is_among(sink.file, parts):
                raise UsageError(f"{sink.asked} is one of the files to read")

    def keep_out_of(self, path: str) -> None:
        """Raise UsageError if a report would get into what else is written, at `path`."""
        place = target_path(path)
        for sink in self.sinks:
            if sink.file is not None and f"{target_path(sink.file)}/".startswith(f"{place}/"):
                raise UsageError(f"{sink.asked} lies in {path}, which is written too")

    def write(self, render: Callable[[str, Style], str], showing: Showing) -> None:
        """Write them all, each as `render` has it in its format.

        Raises FileAccessError where one cannot be written, once the others are.
        """
        failures: list[FileAccessError] = []
        for sink in self.sinks:
            text = render(sink.format, showing.style(sink.file))
            try:
                if sink.appended and sink.file is not None:
                    append_result(text, sink.file)
                else:
                    write_result(text, sink.file)
            except FileAccessError as error:
                failures.append(error)  # the other reports are as good as before
        for failure in failures[1:]:
            say_error(failure)
        if failures:
            raise failures[0]


def read_reports(
    known: Collection[str], formats: Sequence[str] | None, output: str | None = None
) -> Reports:
    """What `-f FORMAT[:FILE]` and `-o FILE` ask for, the first of the known formats by default.

    Raises UsageError where two reports would get into one place.
    """
    default, *_ = known
    sinks = [_sink(text, known) for text in formats or [default]]
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


def _sink(text: str, known: Collection[str]) -> Sink:
    name, colon, file = text.partition(":")
    found = name if name in known else _ALIKE.get(name, name)
    if found not in known:
        raise UsageError(f"--format {name!r}: give one of {', '.join(known)}")
    if colon and not file:
        raise UsageError(f"--format {text!r}: there is no file after the colon")
    return Sink(found, _file(file) if colon else None, f"--format {text}")


def _file(name: str) -> str | None:
    return None if name in _STDOUT else name


def _with_parts(paths: Iterable[str]) -> Iterator[str]:
    """All of `paths`, and the tensor files in directories and beside indices among them."""
    from gradtool.formats.files import SUFFIXES  # noqa: PLC0415 - loads NumPy, which --help must not

    for path in paths:
        yield path
        folder = path if os.path.isdir(path) else os.path.dirname(path) or os.curdir
        if os.path.isdir(path) or path.endswith(".json"):
            with suppress(OSError):  # it is a finding, later
                for name in os.listdir(folder):
                    if name.lower().endswith((*SUFFIXES, ".index.json")):
                        yield os.path.join(folder, name)
