"""Groups of options of the table, each given to a command as one value."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Annotated, Any, Final, TypeAlias

from gradtool.cli.console import Display
from gradtool.cli.options import table
from gradtool.cli.options.command import Group, Row, in_panel
from gradtool.cli.options.configuration import Configuration, read_configuration
from gradtool.cli.options.help import COMPUTING, JUDGING, LOOKING, SHOWING, WRITING
from gradtool.cli.reports import read_reports
from gradtool.core.names import group_namer
from gradtool.errors import UsageError

Arguments: TypeAlias = dict[str, Any]
"""Keyword arguments for a function of the library."""


def _paths(paths: list[str]) -> list[str]:
    if not all(paths):
        raise UsageError("a PATH is empty")
    return paths


def _given(**values: object) -> Arguments:
    """The values that are not None; for the others the library has defaults."""
    return {name: value for name, value in values.items() if value is not None}


ALL_TENSORS: Final = "List every tensor, however many there are."
"""Help for --all, where it is about tensors."""

_MEASURING = (
    *in_panel(
        LOOKING,
        table.INCLUDE,
        table.EXCLUDE,
        table.SECTION,
        table.LOSS_SCALE,
        table.RAW_DTYPE,
        table.VERIFY,
        table.RANKS,
        table.REPLICATED,
        table.STRIP_PREFIX,
        table.JOIN,
    ),
    *in_panel(COMPUTING, table.THREADS, table.BACKEND, table.DEVICE, table.DEVICE_MEMORY),
)
_NORM_TYPE = in_panel(LOOKING, table.NORM_TYPE)
_SCALES = in_panel(LOOKING, table.APPLY_SCALES)
_CONFIGURING = in_panel(JUDGING, table.CONFIG, table.ISOLATED)

Paths: TypeAlias = Annotated[list[str], Group((table.PATHS,), _paths)]
Measuring: TypeAlias = Annotated[Arguments, Group((*_NORM_TYPE, *_SCALES, *_MEASURING), _given)]
"""The arguments of `gradtool.measure`."""

MeasuringAsStored: TypeAlias = Annotated[Arguments, Group((*_NORM_TYPE, *_MEASURING), _given)]
"""The same where elements are to be changed as they are stored."""

MeasuringWithoutNormType: TypeAlias = Annotated[Arguments, Group((*_SCALES, *_MEASURING), _given)]
"""The same where the order of norms is that of a baseline."""

Configured: TypeAlias = Annotated[Configuration, Group(_CONFIGURING, read_configuration)]
ConfiguredWithBaseline: TypeAlias = Annotated[
    Configuration, Group((*in_panel(JUDGING, table.BASELINE), *_CONFIGURING), read_configuration)
]
ConfiguredForDiff: TypeAlias = Annotated[
    Configuration, Group(_CONFIGURING, partial(read_configuration, command="diff"))
]
ColorOption: TypeAlias = Annotated[Display, Group(in_panel(SHOWING, table.COLOR), Display)]
ProgressOptions: TypeAlias = Annotated[
    Display, Group(in_panel(SHOWING, table.NO_PROGRESS, table.COLOR), Display)
]


def _grouping(*, group_by: str | None) -> str | None:
    """The depth or pattern; UsageError for one that is wrong, before hours of reading."""
    if group_by is not None:
        group_namer(group_by)
    return group_by


Grouping: TypeAlias = Annotated[str | None, Group(in_panel(SHOWING, table.GROUP_BY), _grouping)]


def display(all_help: str, *more: Row) -> Group:
    """The options of `Display`, with the help for --all, and `more` of them."""
    rows = (table.show_all(all_help), table.QUIET, *more, table.NO_PROGRESS, table.COLOR)
    return Group(in_panel(SHOWING, *rows), Display)


def display_without_quiet(all_help: str) -> Group:
    """The options of `Display` without --quiet."""
    rows = (table.show_all(all_help), table.NO_PROGRESS, table.COLOR)
    return Group(in_panel(SHOWING, *rows), Display)


def reports_in(names: Collection[str]) -> Group:
    """The options -f and -o, for reports in formats of these names, the first by default."""
    rows = in_panel(SHOWING, table.formats(names), table.OUTPUT)
    return Group(rows, partial(read_reports, names))


def reports_without_output(names: Collection[str]) -> Group:
    """The option -f alone, for a command whose -o is for something else."""
    return Group(in_panel(SHOWING, table.formats(names)), partial(read_reports, names))


def clipping_to(panel: str, max_norm_help: str, *more: Row) -> Group:
    """The options --max-norm, with its help, and --eps, and `more` ways to clip, in a panel."""
    return Group(in_panel(panel, table.max_norm(max_norm_help), table.EPS, *more), _given)


def writing_to(kind: object, option: Any) -> Group:
    """The options -o, for a result that is no report, and --force."""
    return Group(in_panel(WRITING, Row("out", kind, option), table.FORCE), _given)
