"""Seals: a digest before what a store holds tells whether it is what was put in."""

from __future__ import annotations

import hashlib
import sqlite3
from typing import Final

_DIGEST: Final = 16


def sealed(content: bytes) -> bytes:
    """Content with its seal."""
    return hashlib.sha256(content).digest()[:_DIGEST] + content


def opened(whole: bytes) -> bytes:
    """The content of what was sealed; sqlite3.DatabaseError where that is damaged."""
    content = whole[_DIGEST:]
    if sealed(content) != whole:
        raise sqlite3.DatabaseError("what it holds is damaged")
    return content
