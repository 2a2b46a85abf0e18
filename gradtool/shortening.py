"""Texts from files cut to what a line has room for: a name may be a megabyte long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

LONGEST_LINE: Final = 500
"""Characters of a line that says what is wrong, whatever stands in a file."""

LONGEST_NAME: Final = 240
"""Characters of one name among others: more than any that somebody gave a tensor."""

_LONGEST_VALUE: Final = 100
"""Characters of a wrong value that a message shows."""

_ENDING: Final = 3
"""Of a long text its beginning is kept and this part of it, the third, at its end."""


def shortened(text: str, length: int) -> str:
    """`text`, or where it is longer its beginning and end, `length` characters in all."""
    if len(text) <= length:
        return text
    end = length // _ENDING
    return f"{text[: length - end - 1]}…{text[len(text) - end :]}"


def fitted(texts: Sequence[str], room: int) -> list[str]:
    """The texts, the longest of them cut so that all together have at most `room` characters."""
    left = room
    for at, length in enumerate(sorted(map(len, texts))):
        share = left // (len(texts) - at)
        if length > share:
            return [shortened(text, share) for text in texts]
        left -= length
    return list(texts)


def brief_repr(value: object) -> str:
    """The repr of a wrong value, shortened however large it is."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "a number of thousands of digits"
    return shortened(text, _LONGEST_VALUE)
