"""Options of the table that go together, as the one value that a command is given of them."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Annotated, Any, Final, TypeAlias

from gradtool.cli.console import Showing
from gradtool.cli.options import table
from gradtool.cli.options.command import Group, Row
from gradtool.cli.options.configuration import Configuration, read_configuration
from gradtool.cli.reports import read_reports
from gradtool.errors import UsageError

Arguments: TypeAlias = dict[str, Any]
"""Keyword arguments for a function of the library."""


def _paths(paths: list[str]) -> list[str]:
    if not all(paths):
        raise UsageError("a PATH is empty")
    return paths


def _given(**values: object) -> Arguments:
    """What was not given is left to the library's defaults."""
    return {name: value for name, value in values.items() if value is not None}


ALL_TENSORS: Final = "List every tensor, however many there are."
_MEASURING = (
    table.INCLUDE,
    table.EXCLUDE,
    table.SECTION,
    table.LOSS_SCALE,
    table.RAW_DTYPE,
    table.VERIFY,
    table.THREADS,
    table.BACKEND,
    table.DEVICE,
    table.DEVICE_MEMORY,
)
_CONFIGURING = (table.CONFIG, table.ISOLATED)

Paths: TypeAlias = Annotated[list[str], Group((table.PATHS,), _paths)]
Measuring: TypeAlias = Annotated[Arguments, Group((table.NORM_TYPE, *_MEASURING), _given)]
MeasuringAgain: TypeAlias = Annotated[Arguments, Group(_MEASURING, _given)]
"""By norms of the order that another measurement has."""
Configured: TypeAlias = Annotated[Configuration, Group(_CONFIGURING, read_configuration)]
Comparing: TypeAlias = Annotated[
    Configuration, Group((table.BASELINE, *_CONFIGURING), read_configuration)
]
Coloured: TypeAlias = Annotated[Showing, Group((table.COLOR,), Showing)]


def showing_all(what: str) -> Group:
    """How results are shown; `what` says what --all lists."""
    rows = (table.show_all(what), table.QUIET, table.NO_PROGRESS, table.COLOR)
    return Group(rows, Showing)


def differences(what: str) -> Group:
    """The same of results that are shown at once, whole."""
    return Group((table.show_all(what), table.COLOR), Showing)


def reports_in(known: Collection[str]) -> Group:
    """In which formats to report, and where to."""
    return Group((table.formats(known), table.OUTPUT), partial(read_reports, known))


def reports_beside(known: Collection[str]) -> Group:
    """The same where -o is for something else."""
    return Group((table.formats(known),), partial(read_reports, known))


def clipping_to(what: str, *others: Row) -> Group:
    """The norm to clip to, and other ways to clip; `what` says what the norm is for."""
    return Group((table.max_norm(what), table.EPS, *others), _given)


def writing_to(kind: object, option: Any) -> Group:
    """A file to write that is no report, and whether to replace what is there."""
    return Group((table.out(kind, option), table.FORCE), _given)
