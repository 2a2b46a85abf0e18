"""Where text goes: results to stdout or a file, everything else to stderr."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from typing import TextIO

from gradtool.cli.options import Color
from gradtool.errors import FileAccessError, GradtoolError
from gradtool.report.escaping import brief, visible
from gradtool.report.model import Style
from gradtool.shortening import LONGEST_LINE
from gradtool.storage.workspace import write_file

ERROR = "gradtool: error: "
_STREAMS = ("/dev/std", "/dev/fd/", "/proc/")


def say(message: str) -> None:
    """One line about what went wrong, safe to show and short whatever file names are in it."""
    tell(f"{brief(f'gradtool: {message}')}\n")


def say_error(error: GradtoolError) -> None:
    """The one line of an error."""
    tell(f"{ERROR}{error.line(LONGEST_LINE - len(ERROR), visible)}\n")


def tell(text: str) -> None:
    """Write to stderr; where that takes nothing, the exit code has to do."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        _divert(sys.stderr)


def say_warnings() -> None:
    """Have said on stderr what the rest of gradtool warns of and has nowhere to return."""
    import logging  # noqa: PLC0415 - --help warns of nothing

    class Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(f"warning: {record.getMessage()}")

    logging.getLogger("gradtool").handlers = [Said()]


def style(color: Color, output: str | None, *, quiet: bool, show_all: bool) -> Style:
    """How results look where they go: nothing is cut to a width but on a terminal."""
    shown = output is None and sys.stdout.isatty()
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
    if output is None:
        _write_stdout(text.encode(sys.stdout.encoding, "backslashreplace"))
    else:
        _write_file(output, text.encode("utf-8", "backslashreplace"))


def _write_stdout(data: bytes) -> None:
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    except OSError as error:
        lose_stdout(error)


def _write_file(output: str, data: bytes) -> None:
    try:
        if _is_replaceable(output):
            write_file(output, data)
            return
        with open(output, "wb", opener=None if _is_stream(output) else _open_special) as stream:
            stream.write(data)
    except (OSError, ValueError) as error:
        raise _unwritable(output, error) from error


def lose_stdout(error: OSError) -> None:
    """Take leave of a stdout that took no more.

    Raises FileAccessError, unless who read a pipe has closed it: `| head` has seen enough.
    """
    _divert(sys.stdout)
    if not isinstance(error, BrokenPipeError):
        raise _unwritable("standard output", error) from error


def _divert(stream: TextIO) -> None:
    # The interpreter flushes once more on its way out: let something take it.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_replaceable(output: str) -> bool:
    """Whether `output` is a regular file, or free to become one.

    Devices, FIFOs and names of open descriptors are written to as they are.
    """
    if output.endswith(os.sep) or _is_stream(output):
        return False
    return not os.path.exists(output) or stat.S_ISREG(os.stat(output).st_mode)


def _is_stream(output: str) -> bool:
    return os.path.abspath(output).startswith(_STREAMS)


def _open_special(output: str, flags: int) -> int:
    """Open a device or FIFO; a file that was put in its place meanwhile is left as it is."""
    descriptor = os.open(output, flags & ~(os.O_CREAT | os.O_TRUNC))
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileExistsError(errno.EEXIST, "it was replaced meanwhile")
    return descriptor


def _unwritable(path: str, error: OSError | ValueError) -> FileAccessError:
    reason = error.strerror if isinstance(error, OSError) else error
    return FileAccessError(path, f"cannot be written: {reason}")
