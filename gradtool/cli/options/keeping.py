"""The options that say where rows of what was measured are kept."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import typer

from gradtool.cli.options.command import Group, Row, in_panel
from gradtool.cli.options.help import COMPUTING
from gradtool.errors import UsageError

_HELP: Final = "Keep rows of what was measured there, so that it is measured once."
_CACHE: Final = Row(
    "cache",
    str | None,
    typer.Option(
        None,
        "--cache",
        metavar="FILE",
        help=_HELP,
        show_default="in the user's cache directory",
    ),
)
_CACHE_IF_GIVEN: Final = Row(
    "cache", str | None, typer.Option(None, "--cache", metavar="FILE", help=_HELP)
)
_NO_CACHE: Final = Row(
    "no_cache", bool, typer.Option(False, "--no-cache", help="Measure all, and keep nothing.")
)


def _cache(*, cache: str | None, no_cache: bool | None = None) -> str | bool:
    """The file that rows are kept in; True for the user's, False for none."""
    if cache is None:
        return no_cache is False
    if no_cache:
        raise UsageError("--cache and --no-cache exclude each other")
    if not cache:
        raise UsageError("--cache: the path is empty")
    return cache


CacheIfGiven: TypeAlias = Annotated[str | bool, Group(in_panel(COMPUTING, _CACHE_IF_GIVEN), _cache)]
"""Where rows are kept only if a file is given."""

Cache: TypeAlias = Annotated[str | bool, Group(in_panel(COMPUTING, _CACHE, _NO_CACHE), _cache)]
