"""Where text goes: results to stdout or a file, everything else to stderr."""

from __future__ import annotations

import os
import shutil
import sys

from gradtool.cli.options import Color
from gradtool.errors import FileAccessError
from gradtool.report.escaping import visible
from gradtool.report.model import Style


def say(message: str) -> None:
    """One line about what went wrong, safe to show whatever file names are in it."""
    print(f"gradtool: {visible(message)}", file=sys.stderr)  # noqa: T201


def style(color: Color, output: str | None, *, quiet: bool, show_all: bool) -> Style:
    """How results look where they go: nothing is cut to a width but on a terminal."""
    shown = output is None and sys.stdout is not None and sys.stdout.isatty()
    return Style(
        width=shutil.get_terminal_size().columns if shown else None,
        colour=color is Color.ALWAYS or (color is Color.AUTO and shown and _wants_colour()),
        quiet=quiet,
        show_all=show_all,
    )


def _wants_colour() -> bool:
    """What the environment says; see https://no-color.org."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def write_result(text: str, output: str | None) -> None:
    """Write a result, now that it is complete, to the file `output` or to stdout.

    Lone surrogates, from file names that are no UTF-8, and characters that the terminal's
    encoding lacks are written as escapes.
    """
    if output is not None:
        _write_file(text.encode("utf-8", "backslashreplace"), output)
        return
    if sys.stdout is None:  # closed by whoever started this
        raise FileAccessError("standard output", "is closed")
    try:
        sys.stdout.buffer.write(text.encode(sys.stdout.encoding, "backslashreplace"))
        sys.stdout.flush()
    except OSError as error:
        # The interpreter flushes stdout once more on its way out: let something take it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # Who read a pipe and closed it has seen enough, `| head` say.
        if not isinstance(error, BrokenPipeError):
            raise _unwritable("standard output", error) from error


def _write_file(data: bytes, output: str) -> None:
    try:
        with open(output, "wb") as file:
            file.write(data)
    except (OSError, ValueError) as error:
        raise _unwritable(output, error) from error


def _unwritable(path: str, error: OSError | ValueError) -> FileAccessError:
    reason = error.strerror if isinstance(error, OSError) else error
    return FileAccessError(path, f"cannot be written: {reason}")
