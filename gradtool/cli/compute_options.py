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
        help="What computes: NumPy on the CPU, or torch on a GPU. auto takes that for dumps "
        "large enough to gain.",
    ),
]
Device: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="For torch: cuda, cuda:1, cuda:0,cuda:1 or cpu.",
        show_default="cuda",
    ),
]
DeviceMemory: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--device-memory",
        metavar="SIZE",
        help="For torch to take on each device: 4GiB, say.",
        show_default="a quarter of what is free",
    ),
]
