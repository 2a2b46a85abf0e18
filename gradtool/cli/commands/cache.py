"""`gradtool cache`."""

from __future__ import annotations

from gradtool.cli.console import write_result
from gradtool.cli.options.command import command
from gradtool.cli.options.keeping import CacheIfGiven
from gradtool.core.figures import byte_size, counted
from gradtool.report.escaping import brief

EPILOG = """\
\b
Examples:
  gradtool cache info
  gradtool cache clear
"""


@command
def info(*, file: CacheIfGiven) -> None:
    """Say where rows are kept, of how many dumps, and how large the file is.

    By default it is about the rows in the user's cache directory.
    """
    from gradtool.api.remembering import kept_in  # noqa: PLC0415 - not for --help

    path, kept = kept_in(file)
    what = "no rows" if kept is None else f"{counted(kept.dumps, 'dump')}, {byte_size(kept.nbytes)}"
    write_result(f"{brief(path)}: {what}\n")


@command
def clear(*, file: CacheIfGiven) -> None:
    """Drop all rows that are kept, by default those in the user's cache directory."""
    from gradtool.api.remembering import clear_rows  # noqa: PLC0415 - not for --help

    path, kept = clear_rows(file)
    what = "no rows" if kept is None else f"rows of {counted(kept.dumps, 'dump')} dropped"
    write_result(f"{brief(path)}: {what}\n")
