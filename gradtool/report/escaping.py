"""Making text from files safe to show: without control characters, and of bounded length."""

from __future__ import annotations

import re
from typing import Final

from gradtool.shortening import LONGEST_LINE, shortened

_COMMAND: Final = re.compile(r"^( *):(?=:)|#(?=#\[)")
"""Matches up to the first character of a command to GitHub's runner, `::` or `##[`."""


def visible(text: str) -> str:
    r"""`text` with every character that a terminal would act on or hide written as an escape.

    Control characters, bidirectional overrides, line separators, zero-width and unassigned
    characters and lone surrogates become `\x1b`, `\u202e` and the like, so that no name from
    a file can move the cursor or hide. Neither can it begin a line with a command to GitHub's
    runner, `::stop-commands::` say. A name that is spelt with such an escape looks the
    same; `recoverable` tells the two apart.
    """
    if not text.isprintable():
        text = "".join(char if char.isprintable() else _escape(ord(char)) for char in text)
    return _COMMAND.sub(lambda match: match[0][:-1] + _escape(ord(match[0][-1])), text)


def brief(text: str, length: int = LONGEST_LINE) -> str:
    """`text` as `visible` has it, cut in its middle to `length` characters, for people to read."""
    if len(text) > 2 * length:  # whose middle is cut anyway, and need not be escaped
        text = text[:length] + text[-length:]
    return shortened(visible(text), length)


def recoverable(text: str) -> str:
    r"""`text` as `visible` shows it, with `\\` for a backslash: no two texts give the same.

    It is Python's notation: `.encode("latin-1", "backslashreplace").decode("unicode_escape")`
    gives the text back.
    """
    return visible(text.replace("\\", r"\\"))


def _escape(code: int) -> str:
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
