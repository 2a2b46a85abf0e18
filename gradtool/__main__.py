"""`python -m gradtool`, and what the `gradtool` command starts."""

from __future__ import annotations

import gc
import sys

_OBJECTS_BETWEEN_COLLECTIONS = 1_000_000


def main() -> None:
    """Run the command line and exit."""
    # A catalogue is millions of new objects and no garbage: looking for some among them at
    # Python's usual pace takes a quarter of the time.
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    try:
        from gradtool.cli.app import app  # noqa: PLC0415 - interrupted here too, it says so

        app(prog_name="gradtool")
    except KeyboardInterrupt:
        sys.stderr.write("gradtool: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
