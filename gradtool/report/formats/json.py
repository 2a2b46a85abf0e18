"""The formats for programs, schema `gradtool.formats/1`: an object, a line for each format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from gradtool._version import __version__
from gradtool.report.model import Style

if TYPE_CHECKING:
    from gradtool.formats.known import KnownFormat

SCHEMA: Final = "gradtool.formats/1"


def render(known: Sequence[KnownFormat], style: Style) -> str:  # noqa: ARG001
    """All formats as one JSON object."""
    lines = ",\n ".join(json.dumps(_format(one)) for one in known)
    head = f'"schema": "{SCHEMA}", "gradtool": "{__version__}"'
    return f'{{{head}, "formats": [\n {lines}\n]}}\n'


def _format(one: KnownFormat) -> dict[str, object]:
    about = one.about
    return {
        "name": one.name,
        "kind": one.kind,
        "about": about.words,
        "markers": list(about.markers),
        "suffixes": list(one.suffixes),
        "reads": about.reads,
        "clips": about.clips,
        "extra": about.extra,
    }
