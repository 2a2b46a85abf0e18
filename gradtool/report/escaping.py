"""Making text from files safe to show."""

from __future__ import annotations


def visible(text: str) -> str:
    r"""`text` with every character that a terminal would act on or hide written as an escape.

    Control characters, bidirectional overrides, line separators, zero-width and unassigned
    characters and lone surrogates become `\x1b`, `\u202e` and the like: a name from a file
    can neither move the cursor nor pass for another name.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(ord(char)) for char in text)


def _escape(code: int) -> str:
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
