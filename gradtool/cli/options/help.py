"""Help in panels: what to look at, what to do with it, how to show it, how to compute."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

WIDEST: Final = 100
"""Columns of help on a wide terminal: longer lines are hard to read."""

LOOKING: Final = "What to look at"
JUDGING: Final = "How to judge"
CLIPPING: Final = "How to clip"
WRITING: Final = "What to write"
FOLLOWING: Final = "How to follow"
SHOWING: Final = "How to show it"
COMPUTING: Final = "How to compute"

_ORDER: Final = (
    "Arguments",
    LOOKING,
    JUDGING,
    CLIPPING,
    WRITING,
    FOLLOWING,
    SHOWING,
    COMPUTING,
    "Options",
)
_DEFAULT_IN_WORDS: Final = re.compile(r"\[default: \((.*)\)(?=[];])")
"""Typer puts defaults that are words in parentheses of their own."""


def panels(parameters: Iterable[Any], ctx: Any) -> list[tuple[str, list[tuple[str, str]]]]:
    """The title of each panel, and spelling and help of each of its parameters."""
    found: dict[str, list[tuple[str, str]]] = {title: [] for title in _ORDER}
    for parameter in parameters:
        record = parameter.get_help_record(ctx)
        if record is not None:
            is_argument = parameter.param_type_name == "argument"
            title = "Arguments" if is_argument else parameter.rich_help_panel or "Options"
            spelling, text = record
            found[title].append((spelling, _DEFAULT_IN_WORDS.sub(r"[default: \1", text)))
    return [(title, rows) for title, rows in found.items() if rows]


class Panels:
    """For commands: their --help has the options in panels."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What follows the command's name, without Typer's braces around arguments."""
        pieces: list[str] = super().collect_usage_pieces(ctx)  # type: ignore[misc]
        return [piece.strip("{}") for piece in pieces]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write all panels, and the commands of a group."""
        for title, rows in panels(self.get_params(ctx), ctx):  # type: ignore[attr-defined]
            with formatter.section(title):
                formatter.write_dl(rows)
        if hasattr(self, "format_commands"):
            self.format_commands(ctx, formatter)
