"""The library's arguments as the command line spells them.

The library speaks to who calls it from Python: its texts name an argument in backticks, as
`max_norm`, or with a value as `force=True`. On the command line that is `--max-norm` and `--force`.
"""

from __future__ import annotations

import re
from typing import Final

THRESHOLDS: Final = {
    "GT006.min_tensors": "min_tensors",
    "GT007.names": "expect",
    "GT103.max_consecutive": "max_consecutive",
    "GT401.norm": "expect_norm",
}
"""Thresholds of `check` that have an option of their own, and the parameter that it gives."""

OPTIONS: Final[dict[str, str]] = {}
"""How each parameter is written, of the commands that are loaded: of the one that runs at least."""

_QUOTES: Final = "\"'"
# Names out of files stand in quotes, and a path before a colon: they stay what they are.
_ARGUMENT: Final = re.compile(r"(?<!['\"\w/])`(GT\d{3}\.)?([a-z_]+)(?:=([^`]*))?`(?!['\":\w/])")


def spelt(text: str) -> str:
    """A text of the library for who typed a command; what names no option stays as it is."""
    return _ARGUMENT.sub(_option, text)


def _option(found: re.Match[str]) -> str:
    code, name, value = found.groups()
    option = OPTIONS.get(THRESHOLDS.get(f"{code}{name}", "") if code else name)
    if option is None:
        return found[0]
    return option if value in (None, "True") else f"{option} {value.strip(_QUOTES)}"
