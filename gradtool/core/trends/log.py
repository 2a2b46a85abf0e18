"""The norms that a trainer logged, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Log:
    """A log as far as it is about norms of gradients.

    Attributes:
        path: of its file.
        key: what it calls the norm.
        norms: by step; NaN and infinity where those were logged.
        notes: what deserves a warning, one sentence each.
    """

    path: str
    key: str
    norms: Mapping[int, float]
    notes: tuple[str, ...] = ()
