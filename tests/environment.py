"""What programs that tests start are given of the environment that the tests were started in."""

from __future__ import annotations

import os
from pathlib import Path

import gradtool

ROOT = str(Path(gradtool.__file__).parents[1])

_NOT_HANDED_ON = (
    # How wide and how colourful to be, and for whom: gradtool, rich, typer and pytest ask.
    *("COLORTERM", "COLUMNS", "FORCE_COLOR", "GITHUB_", "JUPYTER_", "LINES", "NO_COLOR"),
    *("PY_COLORS", "TERMINAL_WIDTH", "TTY_"),
    # In which encoding. Without any of these Python takes UTF-8; of a locale that is not installed
    # shells complain.
    *("LANG", "LC_", "PYTHONCOERCECLOCALE", "PYTHONIOENCODING", "PYTHONUTF8"),
)
"""What the names begin with that would change what programs print."""

PLAIN = {
    **{name: value for name, value in os.environ.items() if not name.startswith(_NOT_HANDED_ON)},
    "PYTHONPATH": ROOT,
}
