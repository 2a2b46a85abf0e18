"""What programs that tests start are given of the environment that the tests were started in."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
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

_CACHES = tempfile.mkdtemp(prefix="gradtool-test-caches-")
atexit.register(shutil.rmtree, _CACHES, ignore_errors=True)

PLAIN = {
    **{name: value for name, value in os.environ.items() if not name.startswith(_NOT_HANDED_ON)},
    "PYTHONPATH": ROOT,
    "XDG_CACHE_HOME": _CACHES,  # not the one of whoever runs the tests
}
