"""The options of `trend` that say which steps and tensors are followed, and what else is known."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

import typer

from gradtool.cli.options.command import Group, Row, in_panel
from gradtool.cli.options.help import LOOKING
from gradtool.errors import UsageError

_LAST: Final = Row(
    "last",
    int | None,
    typer.Option(None, "--last", metavar="N", min=1, help="Only the newest N steps."),
)
_TENSOR: Final = Row(
    "tensor",
    list[str] | None,
    typer.Option(
        None,
        "--tensor",
        metavar="GLOB",
        help="Follow tensors with such names by themselves too; repeatable.",
    ),
)
_LOG: Final = Row(
    "log",
    str | None,
    typer.Option(
        None,
        "--log",
        metavar="FILE",
        help="Hold the norm that the trainer logged beside the true one: in trainer_state.json, "
        "JSON lines, CSV or the text of torchtune's DiskLogger.",
    ),
)
_LOG_KEY: Final = Row(
    "log_key",
    str | None,
    typer.Option(
        None,
        "--log-key",
        metavar="NAME",
        help="What the log calls the norm.",
        show_default="found by its name",
    ),
)


def _followed(
    *, last: int | None, tensor: list[str] | None, log: str | None, log_key: str | None
) -> dict[str, Any]:
    if log == "":
        raise UsageError("--log: the path is empty")
    return {"last": last, "tensor": tensor or (), "log": log, "log_key": log_key}


Followed: TypeAlias = Annotated[
    dict[str, Any], Group(in_panel(LOOKING, _LAST, _TENSOR, _LOG, _LOG_KEY), _followed)
]
"""The arguments of `gradtool.trend` that are its own."""
