"""`gradtool formats`."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from gradtool.cli.options import groups
from gradtool.cli.options.command import command
from gradtool.cli.reports import Reports
from gradtool.report import FORMATS_REPORTERS, formats_reporter

EPILOG = """\
\b
Examples:
  gradtool formats
  gradtool formats -f json | jq -r '.formats[] | select(.clips).name'
"""

ReportOptions: TypeAlias = Annotated[Reports, groups.reports_in(FORMATS_REPORTERS)]


@command
def formats(*, reports: ReportOptions, display: groups.ColorOption) -> None:
    """List the formats that are read and clipped.

    Says how each is told, and which extra it needs. Sets are of files of the other formats.
    """
    from gradtool.formats.known import known_formats  # noqa: PLC0415 - not for --help

    known = known_formats()
    reports.write(lambda name, style: formats_reporter(name)(known, style), display)
