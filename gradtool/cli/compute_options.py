"""The options that say what computes, and with how much of the machine."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypeAlias

import typer


class Backend(StrEnum):
    """What `engine.choice.BACKENDS` has."""

    AUTO = "auto"
    NUMPY = "numpy"
    TORCH = "torch"


Threads: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        help="Default: one for each core, at most 4; each takes 20 MB.",
    ),
]
BackendName: TypeAlias = Annotated[
    Backend,
    typer.Option(
        "--backend",
        help="What computes: NumPy on the CPU, or torch on a GPU. auto is NumPy but for dumps so "
        "large that a GPU pays.",
    ),
]
Device: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Where torch computes, which it then does: cuda, cuda:1, cuda:0,cuda:1 or cpu.",
        show_default="cuda if --backend torch",
    ),
]
DeviceMemory: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--device-memory",
        metavar="SIZE",
        help="What torch may take of each device's memory, as 4GiB.",
        show_default="a quarter of what is free",
    ),
]
