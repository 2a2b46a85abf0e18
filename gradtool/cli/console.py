"""Writing text: results to stdout or a file, everything else to stderr."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TextIO

from gradtool.cli.progress import ByteProgress
from gradtool.cli.signals import ended_by_signals
from gradtool.cli.spelling import with_options
from gradtool.errors import FileAccessError, GradtoolError
from gradtool.report.escaping import brief, visible
from gradtool.report.model import Style
from gradtool.shortening import LONGEST_LINE
from gradtool.storage.workspace import write_file

Color = Literal["auto", "always", "never"]
"""When to write ANSI sequences."""

ERROR = "gradtool: error: "
_STREAMS = ("/dev/std", "/dev/fd/", "/proc/")


@dataclass(frozen=True, slots=True)
class Display:
    """How results and progress are displayed, as the options --all, --quiet and so on say."""

    show_all: bool = False
    quiet: bool = False
    no_progress: bool = False
    color: Color = "auto"
    verbose: bool = False

    def style(self, file: str | None = None) -> Style:
        """The style of results for `file`, which is never coloured, or for stdout.

        Lines are fitted to a width on a terminal only.
        """
        on_terminal = file is None and sys.stdout.isatty()
        automatic = self.color == "auto" and on_terminal and _allows_colour()
        colour = (self.color == "always" or automatic) and file is None
        return Style(
            width=shutil.get_terminal_size().columns if on_terminal else None,
            colour=colour,
            quiet=self.quiet,
            show_all=self.show_all,
            verbose=self.verbose,
            bars=colour and sys.stdout.encoding.lower().startswith("utf"),
        )

    @contextmanager
    def progress(self, path: str) -> Iterator[ByteProgress]:
        """A progress bar for work on `path`; a signal that ends the process removes it first."""
        enabled = not (self.quiet or self.no_progress)
        progress = ByteProgress(path, enabled=enabled, plain=self.color == "never")
        with ended_by_signals(progress), progress:
            yield progress


def say(message: str) -> None:
    """Write a line to stderr, safe to show and short whatever file names are in it."""
    write_stderr(f"{brief(f'gradtool: {message}')}\n")


def say_error(error: GradtoolError) -> None:
    """Write an error as one line to stderr."""
    write_stderr(f"{ERROR}{error.line(LONGEST_LINE - len(ERROR), _displayed)}\n")


def _displayed(text: str) -> str:
    return visible(with_options(text))


def write_stderr(text: str) -> None:
    """Write to stderr; if that is closed or full, the exit code has to be enough."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        _divert(sys.stderr)


def write_warnings_to_stderr() -> None:
    """From now on, write what the library logs as warnings to stderr."""
    import logging  # noqa: PLC0415 - --help warns of nothing

    class SayingHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(f"warning: {record.getMessage()}")

    logging.getLogger("gradtool").handlers = [SayingHandler()]


def _allows_colour() -> bool:
    """Whether the environment allows colours; see https://no-color.org."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def write_result(text: str, file: str | None = None) -> None:
    """Write a complete result to a file or to stdout.

    Lone surrogates, from file names that are no UTF-8, and characters that the terminal's
    encoding lacks are written as escapes.
    """
    if file is None:
        _write_stdout(text.encode(sys.stdout.encoding, "backslashreplace"))
    else:
        _write_file(file, text.encode("utf-8", "backslashreplace"))


def stream(text: str) -> bool:
    """Write lines to stdout at once; whether anybody still reads there."""
    try:
        sys.stdout.buffer.write(text.encode(sys.stdout.encoding, "backslashreplace"))
        sys.stdout.flush()
    except OSError as error:
        abandon_stdout(error)
        return False
    return True


def append_result(text: str, file: str) -> None:
    """Append a result to a file to which others may have written."""
    try:
        with open(file, "a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
    except (OSError, ValueError) as error:
        raise _unwritable(file, error) from error


def _write_stdout(data: bytes) -> None:
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    except OSError as error:
        abandon_stdout(error)


def _write_file(file: str, data: bytes) -> None:
    try:
        if _is_replaceable(file):
            write_file(file, data)
            return
        with open(file, "wb", opener=None if _is_stream(file) else _open_special) as stream:
            stream.write(data)
    except (OSError, ValueError) as error:
        raise _unwritable(file, error) from error


def abandon_stdout(error: OSError) -> None:
    """Write nothing more to stdout, which has failed with `error`.

    Raises FileAccessError, unless the reader of a pipe has closed it, as `| head` does.
    """
    _divert(sys.stdout)
    if not isinstance(error, BrokenPipeError):
        raise _unwritable("standard output", error) from error


def _divert(stream: TextIO) -> None:
    # The interpreter flushes the stream once more when it exits: it must not fail then.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_replaceable(file: str) -> bool:
    """Whether `file` is a regular file, or does not exist.

    Devices, FIFOs and names of open descriptors are written to directly instead.
    """
    if file.endswith(os.sep) or _is_stream(file):
        return False
    return not os.path.exists(file) or stat.S_ISREG(os.stat(file).st_mode)


def _is_stream(file: str) -> bool:
    return os.path.abspath(file).startswith(_STREAMS)


def _open_special(file: str, flags: int) -> int:
    """Open a device or FIFO; FileExistsError for a file that has replaced it meanwhile."""
    descriptor = os.open(file, flags & ~(os.O_CREAT | os.O_TRUNC))
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileExistsError(errno.EEXIST, "it was replaced meanwhile")
    return descriptor


def _unwritable(path: str, error: OSError | ValueError) -> FileAccessError:
    reason = (isinstance(error, OSError) and error.strerror) or error
    return FileAccessError(path, f"cannot be written: {reason}")
