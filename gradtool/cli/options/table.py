"""The table of the options that commands share: each one's spelling, type, default, check and help.

A new option is a row here, and its name in the group that it belongs to.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal

import typer

from gradtool.cli.console import Color
from gradtool.cli.options import values
from gradtool.cli.options.command import Row
from gradtool.core.checkpoint import RanksMode
from gradtool.core.clipping import TORCH_EPS
from gradtool.core.dtypes import DTYPES
from gradtool.core.sections import SECTIONS

Backend = Literal["auto", "numpy", "torch"]
"""The names in `engine.choice.BACKENDS`, repeated here to load no backend."""

PATHS: Final = Row(
    "paths",
    list[str],
    typer.Argument(
        metavar="PATH...",
        help="Files, checkpoint directories, index files or quoted globs; a report for each.",
        show_default=False,
    ),
)
NORM_TYPE: Final = Row(
    "norm_type",
    float,
    typer.Option(
        2.0,
        "--norm-type",
        "-p",
        metavar="P",
        callback=values.norm_type,
        help="The order of norms: a number, inf or -inf.",
        show_default="2",
    ),
)
INCLUDE: Final = Row(
    "include",
    list[str] | None,
    typer.Option(
        None, "--include", "-i", metavar="GLOB", help="Only tensors with such names; repeatable."
    ),
)
EXCLUDE: Final = Row(
    "exclude",
    list[str] | None,
    typer.Option(
        None, "--exclude", "-x", metavar="GLOB", help="No tensors with such names; wins over -i."
    ),
)
SECTION: Final = Row(
    "section",
    str | None,
    typer.Option(
        None,
        "--section",
        metavar="NAME",
        autocompletion=values.completing(SECTIONS),
        help="Only that section, such as grads.",
    ),
)
LOSS_SCALE: Final = Row(
    "loss_scale",
    float | None,
    typer.Option(
        None,
        "--loss-scale",
        metavar="S",
        callback=values.loss_scale,
        help="Gradients were saved multiplied by S: norms and bounds are without it. "
        "By default what dump_gradients noted in the file.",
    ),
)
RAW_DTYPE: Final = Row(
    "raw_dtype",
    str | None,
    typer.Option(
        None,
        "--raw-dtype",
        metavar="DTYPE",
        callback=values.dtype,
        autocompletion=values.completing(DTYPES),
        help="What npy files mean by raw bytes such as V2: BF16, say.",
    ),
)
VERIFY: Final = Row(
    "verify",
    bool,
    typer.Option(False, "--verify", help="Check the checksums of tensor data too."),
)
RANKS: Final = Row(
    "ranks",
    RanksMode | None,
    typer.Option(
        None,
        "--ranks",
        help="What files of several ranks are: shards that add up, replicas that must agree, or "
        "each a dump by itself. auto goes by what they say, and takes equal bytes for replicas.",
        show_default="auto",
    ),
)
REPLICATED: Final = Row(
    "replicated",
    list[str] | None,
    typer.Option(
        None,
        "--replicated",
        metavar="GLOB",
        help="Tensors with such names are whole on each rank, and must agree; repeatable.",
    ),
)
STRIP_PREFIX: Final = Row(
    "strip_prefix",
    list[str] | None,
    typer.Option(
        None,
        "--strip-prefix",
        metavar="P",
        help="Take P off names where they are matched, as module. and _orig_mod. are; repeatable.",
    ),
)
JOIN: Final = Row(
    "join",
    bool,
    typer.Option(
        False,
        "--join",
        help="Read all files of a directory together, under prefixes where they share names.",
    ),
)
APPLY_SCALES: Final = Row(
    "apply_scales",
    bool,
    typer.Option(
        False, "--apply-scales", help="Multiply fp8 weights by the scales that lie beside them."
    ),
)
THREADS: Final = Row(
    "threads",
    int | None,
    typer.Option(
        None,
        "--threads",
        metavar="N",
        min=1,
        help="Default: one for each core, at most 4; each takes 20 MB.",
    ),
)
BACKEND: Final = Row(
    "backend",
    Backend,
    typer.Option(
        "auto",
        "--backend",
        help="What computes: NumPy on the CPU, or torch on a GPU. auto is NumPy but for dumps so "
        "large that a GPU pays.",
    ),
)
DEVICE: Final = Row(
    "device",
    str | None,
    typer.Option(
        None,
        "--device",
        metavar="DEVICE",
        help="Where torch computes, which it then does: cuda, cuda:1, cuda:0,cuda:1 or cpu.",
        show_default="cuda if --backend torch",
    ),
)
DEVICE_MEMORY: Final = Row(
    "device_memory",
    str | None,
    typer.Option(
        None,
        "--device-memory",
        metavar="SIZE",
        help="What torch may take of each device's memory, as 4GiB.",
        show_default="a quarter of what is free",
    ),
)
EPS: Final = Row(
    "eps",
    float | None,
    typer.Option(
        None,
        "--eps",
        metavar="E",
        callback=values.eps,
        help="Added to the norm when clipping: torch's; 0 is optax's.",
        show_default=f"{TORCH_EPS:g}",
    ),
)
CONFIG: Final = Row(
    "config",
    str | None,
    typer.Option(
        None,
        "--config",
        metavar="FILE",
        help="By default the nearest gradtool.toml, or pyproject.toml with [tool.gradtool].",
    ),
)
ISOLATED: Final = Row(
    "isolated", bool, typer.Option(False, "--isolated", help="Look for no configuration.")
)
BASELINE: Final = Row(
    "baseline",
    str | None,
    typer.Option(
        None, "--baseline", metavar="FILE", help="Compare with it; see `gradtool baseline`."
    ),
)
GROUP_BY: Final = Row(
    "group_by",
    str | None,
    typer.Option(
        None,
        "--group-by",
        "-g",
        metavar="DEPTH|PATTERN",
        help="Roll up by dotted prefix: 2, or layers.* for each layer, layers.# for all.",
    ),
)
FORCE: Final = Row("force", bool, typer.Option(False, "--force", help="Overwrite the file OUT."))
OUTPUT: Final = Row(
    "output",
    str | None,
    typer.Option(
        None,
        "--output",
        "-o",
        metavar="FILE",
        callback=values.report_file,
        help="The file of the only format; - for stdout.",
    ),
)
QUIET: Final = Row(
    "quiet",
    bool,
    typer.Option(False, "--quiet", "-q", help="Totals and findings only; no progress."),
)
VERBOSE: Final = Row(
    "verbose",
    bool,
    typer.Option(False, "--verbose", "-v", help="Say by which rules and thresholds too."),
)
NO_PROGRESS: Final = Row(
    "no_progress", bool, typer.Option(False, "--no-progress", help="No progress bar.")
)
COLOR: Final = Row("color", Color, typer.Option("auto", "--color", help="When to colour."))


def formats(names: Collection[str]) -> Row:
    """-f, for a command with formats of these names, the first by default."""
    default, *_ = names
    return Row(
        "formats",
        list[str] | None,
        typer.Option(
            None,
            "--format",
            "-f",
            metavar="FORMAT[:FILE]",
            autocompletion=values.completing(names),
            help=f"{', '.join(names)}; to stdout unless a FILE is given. Repeatable.",
            show_default=default,
        ),
    )


def max_norm(text: str) -> Row:
    """--max-norm, with the help that the command has for it."""
    option = typer.Option(None, "--max-norm", metavar="X", callback=values.bound, help=text)
    return Row("max_norm", float | None, option)


def show_all(text: str) -> Row:
    """--all, with the help that the command has for it."""
    return Row("show_all", bool, typer.Option(False, "--all", help=text))
