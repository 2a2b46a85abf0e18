"""`gradtool cache`."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from gradtool.cli.console import write_result
from gradtool.cli.options.command import command
from gradtool.core.figures import byte_size, counted
from gradtool.report.escaping import brief

EPILOG = """\
\b
Examples:
  gradtool cache info
  gradtool cache clear
"""

File: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--cache",
        metavar="FILE",
        help="That file's rows.",
        show_default="those in the user's cache directory",
    ),
]


@command
def info(*, cache: File = None) -> None:
    """Say where rows are kept, of how many dumps, and how large the file is."""
    from gradtool.api.remembering import kept_in  # noqa: PLC0415 - not for --help

    path, kept = kept_in(cache)
    what = "no rows" if kept is None else f"{counted(kept.dumps, 'dump')}, {byte_size(kept.nbytes)}"
    write_result(f"{brief(path)}: {what}\n")


@command
def clear(*, cache: File = None) -> None:
    """Drop all rows that are kept."""
    from gradtool.api.remembering import clear_rows  # noqa: PLC0415 - not for --help

    path, kept = clear_rows(cache)
    what = "no rows" if kept is None else f"rows of {counted(kept.dumps, 'dump')} dropped"
    write_result(f"{brief(path)}: {what}\n")
