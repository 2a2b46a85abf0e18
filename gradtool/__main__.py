"""`python -m gradtool`, and what the `gradtool` command starts."""

from __future__ import annotations

import gc
import os
import sys
from typing import TextIO

from gradtool.engine.memory import shortage

_OBJECTS_BETWEEN_COLLECTIONS = 1_000_000


def _open_closed_streams() -> None:
    """Stand in for streams that whoever started this has closed, which Python leaves None.

    Also keeps files that are opened later off their descriptors. Errors said to nobody are
    lost; a result is not lost in silence: nothing can be written to what is open for reading.
    """
    if sys.stdout is None:
        sys.stdout = _devnull(os.O_RDONLY)
    if sys.stderr is None:
        sys.stderr = _devnull(os.O_WRONLY)


def _devnull(access: int) -> TextIO:
    return open(os.open(os.devnull, access), "w", encoding="utf-8", closefd=False)


def main() -> None:
    """Run the command line and exit."""
    # A catalogue is millions of new objects and no garbage: looking for some among them at
    # Python's usual pace takes a quarter of the time.
    _open_closed_streams()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    # The threads that compute are gradtool's own. Those of OpenBLAS and OpenMP would stand in their
    # way, and where one of theirs does not start, these libraries end the process.
    for library in ("OPENBLAS", "OMP"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    try:
        from gradtool.cli.app import app  # noqa: PLC0415 - interrupted here too, it says so

        app(prog_name="gradtool")
    except KeyboardInterrupt:
        sys.stderr.write("gradtool: interrupted\n")
        sys.exit(130)
    except Exception as error:  # before there is anything that would tell of it
        told = shortage(error)
        if told is None:
            raise
        sys.stderr.write(f"gradtool: error: {told}\n")
        sys.exit(told.exit_code)


if __name__ == "__main__":
    main()
