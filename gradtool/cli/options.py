"""The options that commands share: how they are spelt, what they may be, what help says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, TypeAlias

import typer

from gradtool.core.dtypes import DTYPES


class ReportFormat(StrEnum):
    """The keys of `report.REPORTERS`, known here without loading the reporters."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"


class ClipFormat(StrEnum):
    """The keys of `report.CLIP_REPORTERS`."""

    TABLE = "table"
    JSON = "json"


class NonFinite(StrEnum):
    """What `core.clip_plan.NonFinite` may be."""

    ERROR = "error"
    ZERO = "zero"
    KEEP = "keep"


class Order(StrEnum):
    """The keys of `report.arrangement.ORDERS`."""

    FILE = "file"
    NAME = "name"
    NORM = "norm"
    MAX = "max"
    NONFINITE = "nonfinite"


class Color(StrEnum):
    """When to write ANSI sequences."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


def _norm_type(value: float) -> float:
    if math.isnan(value):
        raise typer.BadParameter("NaN is no norm type; give a number, inf or -inf")
    return value


def _bound(value: float | None) -> float | None:
    # Typer calls back for defaults too. `not >=` refuses NaN as well.
    if value is not None and not value >= 0.0:
        raise typer.BadParameter(f"{value} is no bound; give a number >= 0, or inf")
    return value


def _total_norm(value: float | None) -> float | None:
    if value is not None and not 0.0 <= value < math.inf:
        raise typer.BadParameter(f"{value} is no norm to clip by; give a finite number >= 0")
    return value


def _eps(value: float) -> float:
    if not 0.0 <= value < math.inf:
        raise typer.BadParameter(f"{value} is no epsilon; give a finite number >= 0")
    return value


def _loss_scale(value: float | None) -> float | None:
    if value is not None and not 0.0 < value < math.inf:
        raise typer.BadParameter(f"{value} is no scale; give a finite number > 0")
    return value


def _output(value: str | None) -> str | None:
    if value is not None and not value:
        raise typer.BadParameter("it is empty; give a file, or - for stdout")
    return None if value == "-" else value


def _dtype(value: str | None) -> str | None:
    if value is None or value.upper() in DTYPES:
        return value and value.upper()
    nearest = get_close_matches(value.upper(), DTYPES, n=1, cutoff=0.0)[0]
    raise typer.BadParameter(f"no such dtype: {value!r}. Did you mean {nearest}?")


def _complete_dtype(incomplete: str) -> Iterator[str]:
    yield from (name for name in DTYPES if name.startswith(incomplete.upper()))


Paths: TypeAlias = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH",
        help="Files, checkpoint directories, index files or quoted globs; a report for each.",
        show_default=False,
    ),
]
NormType: TypeAlias = Annotated[
    float,
    typer.Option(
        "--norm-type", "-p", metavar="P", callback=_norm_type, help="A number, inf or -inf."
    ),
]
Include: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--include", "-i", metavar="GLOB", help="Only tensors with such names; repeatable."
    ),
]
Exclude: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude", "-x", metavar="GLOB", help="No tensors with such names; wins over -i."
    ),
]
Section: TypeAlias = Annotated[
    str | None,
    typer.Option("--section", metavar="NAME", help="Only that section, such as grads."),
]
LossScale: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--loss-scale",
        metavar="S",
        callback=_loss_scale,
        help="Gradients were saved multiplied by S: norms and bounds are without it. "
        "By default what dump_gradients noted in the file.",
    ),
]
RawDType: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--raw-dtype",
        metavar="DTYPE",
        callback=_dtype,
        autocompletion=_complete_dtype,
        help="What npy files mean by raw bytes such as V2: BF16, say.",
    ),
]
Verify: TypeAlias = Annotated[
    bool, typer.Option("--verify", help="Check the checksums of tensor data too.")
]
Path: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        help="A file, a checkpoint directory or an index file.",
        show_default=False,
    ),
]
ClipTo: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--max-norm", metavar="X", callback=_bound, help="Scale so that the norm is at most X."
    ),
]
ClipValue: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--clip-value",
        metavar="V",
        callback=_bound,
        help="Clamp each element to V in magnitude instead.",
    ),
]
TotalNorm: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--total-norm",
        metavar="N",
        callback=_total_norm,
        help="Clip by this norm: PATH is one part of many.",
    ),
]
PerTensor: TypeAlias = Annotated[
    bool, typer.Option("--per-tensor", help="Clip each tensor by its own norm.")
]
NonFiniteChoice: TypeAlias = Annotated[
    NonFinite,
    typer.Option("--nonfinite", help="NaN and Inf: refuse, replace by 0, or leave as they are."),
]
ClipOutput: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="OUT", help="A file; for a directory or index a new directory."
    ),
]
InPlace: TypeAlias = Annotated[
    bool, typer.Option("--in-place", help="Replace PATH, which must be a single file.")
]
Force: TypeAlias = Annotated[bool, typer.Option("--force", help="Overwrite the file OUT.")]
DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")
]
FollowLinks: TypeAlias = Annotated[
    bool,
    typer.Option("--follow-links", help="Copy along what a directory's links name outside of it."),
]
AllChanged: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--all", help="With --per-tensor or --clip-value, list every tensor that changes."
    ),
]
ClipFormatChoice: TypeAlias = Annotated[
    ClipFormat, typer.Option("--format", "-f", help="How to report.")
]
Format: TypeAlias = Annotated[ReportFormat, typer.Option("--format", "-f", help="What to write.")]
Output: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        callback=_output,
        help="Write there, not to stdout (-).",
    ),
]
Quiet: TypeAlias = Annotated[
    bool, typer.Option("--quiet", "-q", help="Totals and findings only; no progress.")
]
NoProgress: TypeAlias = Annotated[bool, typer.Option("--no-progress", help="No progress bar.")]
ColorChoice: TypeAlias = Annotated[Color, typer.Option("--color", help="When to colour.")]
GroupBy: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--group-by",
        "-g",
        metavar="DEPTH|PATTERN",
        help="Roll up by dotted prefix: 2, or layers.* for each layer, layers.# for all.",
    ),
]
Sort: TypeAlias = Annotated[
    Order, typer.Option("--sort", help="By name, with layer 9 before 10, or the worst first.")
]
Top: TypeAlias = Annotated[
    int | None, typer.Option("--top", metavar="N", min=1, help="List the first N tensors only.")
]
All: TypeAlias = Annotated[
    bool, typer.Option("--all", help="List every tensor, however many there are.")
]
MaxNorm: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--max-norm", metavar="X", callback=_bound, help="Say what clipping to X would do."
    ),
]
Eps: TypeAlias = Annotated[
    float,
    typer.Option(
        "--eps",
        metavar="E",
        callback=_eps,
        help="Added to the norm when clipping: torch's; 0 is optax's.",
    ),
]
