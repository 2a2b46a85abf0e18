"""The options of a call, as they would be given again for another path."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator
from typing import Any

import typer

from gradtool.core.figures import short


def options_given(ctx: typer.Context, leave_out: Collection[str]) -> str:
    """The options that were given on the command line, for a shell, but those to `leave_out`."""
    return " ".join(
        shlex.quote(word)
        for option in ctx.command.params
        if option.param_type_name == "option" and option.name is not None
        if option.name not in leave_out and _was_given(ctx, option.name)
        for word in _words(min(option.opts, key=len), ctx.params[option.name])
    )


def _was_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _words(option: str, value: Any) -> Iterator[str]:
    for one in value if isinstance(value, list | tuple) else [value]:
        yield option
        if one is not True:
            yield short(one) if isinstance(one, float) else str(one)
