"""Texts that a file or a user may give, and that may do nothing in a report."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

from gradtool.report.escaping import visible
from reports.commands import role

HOSTILE: Final = [
    "",
    " ",
    "\t",
    "  two  blanks  ",
    "      six blanks",
    "::error::a",
    "a b c d ::error::a",
    "a\n::error file=x::b\r\n::stop-commands::x",
    "##[error]a",
    "%0A::error::a",
    ":",
    "a,title=b:c=d",
    "a|b`c`<b>&amp;*_[x](y)@me",
    "<script>alert(1)</script>",
    "</details>",
    "]]>&<![CDATA[",
    "'quoted' \"twice\"",
    "=1+1",
    " -1",
    "'=1",
    "a;=1",
    "a, b",
    "a = b",
    "- a",
    "1. a",
    "# a",
    "---",
    "| a |",
    "\x00\x08\x1b[31m\x7f\x85",
    "\u202e\u2028\ufffe\uffff\U0001fffe",
    "\ud800\udfff",
    "\udcff.pt",
    "\\x00",
    "\\",
    "-f",
    "[bold]",
    "… 3 more (--all shows them)",
    "total",
    "name  shape  L2 norm",
    "中é😀",
]

_SHOWN: Final = 60
"""Characters in which a text is shown at most, so that none is cut."""

_MOST_WORDS: Final = 32

_any_text = st.sampled_from(HOSTILE) | st.text(st.characters(exclude_categories=[]), max_size=6)
any_texts = st.lists(
    _any_text.filter(lambda text: len(visible(text)) <= _SHOWN),
    min_size=_MOST_WORDS,
    max_size=_MOST_WORDS,
)
"""A text for each word of a sample."""

EACH_EVERYWHERE: Final = [[*HOSTILE[at:], *HOSTILE[:at]] for at in range(len(HOSTILE))]
"""The same; each hostile text stands for each word once."""

_MAY_BE_EMPTY: Final = {"tensor", "alias", "skipped"}


def texts_for(words: list[str], texts: list[str]) -> dict[str, str]:
    """A text for each word; names of tensors may be empty, and no two paths are the same."""
    assert len(words) <= len(texts)
    found = dict(zip(words, texts, strict=False))
    for at, (word, text) in enumerate(found.items()):
        if role(word) == "path":
            found[word] = f"{text}{at}"
        elif role(word) not in _MAY_BE_EMPTY and not text.strip():
            found[word] = f"x{text}"
    return found
