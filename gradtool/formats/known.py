"""All formats that gradtool knows, as users are told of them: read off the tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gradtool.formats.about import About
from gradtool.formats.files import FILES
from gradtool.formats.layouts import LAYOUTS, SETS


@dataclass(frozen=True, slots=True)
class KnownFormat:
    """A format: its name, as reports give it, and what users are told of it.

    `kind` says whether it is one of single files, a layout of directories, or a set of files of
    other formats. `suffixes` are those that files are usually called by.
    """

    name: str
    kind: Literal["file", "directory", "set"]
    suffixes: tuple[str, ...]
    about: About


def known_formats() -> tuple[KnownFormat, ...]:
    """All of them: files, then what files make up."""
    return (
        *(KnownFormat(row.name, "file", row.suffixes, row.about) for row in FILES),
        *(KnownFormat(row.name, "directory", (), row.about) for row in LAYOUTS),
        *(KnownFormat(row.name, "set", (), row.about) for row in SETS),
    )
