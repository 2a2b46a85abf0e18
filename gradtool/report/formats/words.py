"""What is said of formats, in the same words in every format for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradtool.report.escaping import brief
from gradtool.report.grid import Grid, Row
from gradtool.shortening import LONGEST_NAME

if TYPE_CHECKING:  # the types of readers, which load NumPy
    from gradtool.formats.known import KnownFormat

NONE = "-"


def grid(known: Sequence[KnownFormat]) -> Grid:
    """A row for each format; those that are not read are minor."""
    return Grid(
        ("format", "kind", "read", "clipped", "extra", "what it is"),
        (False,) * 6,
        tuple(Row(_cells(one), "plain" if one.about.reads else "minor") for one in known),
    )


def told_by(one: KnownFormat) -> str:
    """Its markers, and the usual suffixes of its files."""
    suffixes = f" ({' '.join(map(_short, one.suffixes))})" if one.suffixes else ""
    return f"{', '.join(map(_short, one.about.markers))}{suffixes}"


def _cells(one: KnownFormat) -> tuple[str, ...]:
    about = one.about
    return (
        _short(one.name),
        one.kind,
        _word(yes=about.reads),
        _word(yes=about.clips),
        _short(about.extra or NONE),
        _short(about.words),
    )


def _short(text: str) -> str:
    return brief(text, LONGEST_NAME)


def _word(*, yes: bool) -> str:
    return "yes" if yes else "no"
