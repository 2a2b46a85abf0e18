"""`gradtool clip`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

import typer

import gradtool  # lazy: its names load array libraries on first use
from gradtool.cli.again import options_given
from gradtool.cli.console import Display
from gradtool.cli.options import groups, values
from gradtool.cli.options.command import Row, command
from gradtool.cli.options.help import CLIPPING, WRITING
from gradtool.cli.paths import expand_all
from gradtool.cli.reports import Reports
from gradtool.core.clip.plan import NonFinite
from gradtool.errors import FileAccessError, SeveralCheckpointsError, UsageError
from gradtool.report import CLIP_REPORTERS, clip_reporter, listing_reporter
from gradtool.report.model import Picking

EPILOG = """\
\b
Examples:
  gradtool clip grads.safetensors --max-norm 1.0 -o clipped.safetensors
  gradtool clip grads.pt --max-norm 1.0 --in-place
  gradtool clip training.pt --section grads --max-norm 1.0 -o clipped.pt
  gradtool clip run/checkpoint-500 --max-norm 1.0 -o run/clipped-500
  gradtool clip 'run/rank*.pt' --max-norm 1.0 -o run/clipped
  gradtool clip grads.pt --group 'embed.*=0.1' --group '*=1.0' -o clipped.pt
  gradtool clip training.pt --agc 0.01 --exclude '*head*' -o clipped.pt
  gradtool clip grads.npz --clip-value 0.5 --nonfinite zero --dry-run
"""


_SHOWING = ("formats", "show_all", "quiet", "no_progress", "color")
"""The options that change nothing in what is clipped."""

Paths: TypeAlias = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH...",
        help="A file, a checkpoint directory or an index file; or the shards or ranks of one.",
        show_default=False,
    ),
]
InPlace: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--in-place",
        help="Replace PATH, which must be a single file.",
        rich_help_panel=WRITING,
    ),
]
DryRun: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Say what would be done, and write nothing.",
        rich_help_panel=WRITING,
    ),
]
FollowLinks: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--follow-links",
        help="Copy along what a directory's links name outside of it.",
        rich_help_panel=WRITING,
    ),
]
Clipping: TypeAlias = Annotated[
    groups.Arguments,
    groups.clipping_to(
        CLIPPING,
        "Scale so that the norm is at most X.",
        Row(
            "clip_value",
            float | None,
            typer.Option(
                None,
                "--clip-value",
                metavar="V",
                callback=values.bound,
                help="Clamp each element to V in magnitude instead.",
            ),
        ),
        Row(
            "groups",
            list[str] | None,
            typer.Option(
                None,
                "--group",
                metavar="GLOB=X",
                help="Scale the tensors with such names, that no earlier GLOB matches, so that "
                "their norm is at most X; repeatable. --max-norm is for the rest.",
            ),
        ),
        Row(
            "agc",
            float | None,
            typer.Option(
                None,
                "--agc",
                metavar="FACTOR",
                callback=values.bound,
                help="Scale each row or filter to FACTOR norms of the weights' one, which lie "
                "beside the gradients. --eps is 0.001 then.",
            ),
        ),
        Row(
            "total_norm",
            float | None,
            typer.Option(
                None,
                "--total-norm",
                metavar="N",
                callback=values.total_norm,
                help="Clip by this norm: PATH is one part of many.",
            ),
        ),
        Row(
            "per_tensor",
            bool,
            typer.Option(False, "--per-tensor", help="Clip each tensor by its own norm."),
        ),
        Row(
            "nonfinite",
            NonFinite,
            typer.Option(
                "error",
                "--nonfinite",
                help="NaN and Inf: refuse, replace by 0, or leave as they are.",
            ),
        ),
    ),
]
Writing: TypeAlias = Annotated[
    groups.Arguments,
    groups.writing_to(
        str | None,
        typer.Option(
            None,
            "--output",
            "-o",
            metavar="OUT",
            help="A file; for a directory, index or several files a new directory.",
        ),
    ),
]
ReportOptions: TypeAlias = Annotated[Reports, groups.reports_without_output(CLIP_REPORTERS)]
DisplayOptions: TypeAlias = Annotated[
    Display, groups.display("Unless all have one factor, list every tensor that changes.")
]


@command
def clip(
    *,
    ctx: typer.Context,
    paths: Paths,
    clipping: Clipping,
    writing: Writing,
    in_place: InPlace = False,
    dry_run: DryRun = False,
    follow_links: FollowLinks = False,
    measuring: groups.MeasuringAsStored,
    reports: ReportOptions,
    display: DisplayOptions,
) -> None:
    """Clip gradients by norm or by value and write them back.

    The output is in the format of the input. Exits 1, with nothing written, if gradients
    are not finite or have no norm in float64.
    """
    place = _place(paths)
    if "groups" in clipping:
        clipping = {**clipping, "groups": _groups(clipping["groups"])}
    if (out := writing.get("out")) == "-":
        raise UsageError("--output takes a file or a directory: what clip writes is no text")
    reports.refuse_to_replace(expand_all(paths))
    if out:
        reports.refuse_inside(out)
    try:
        with display.progress(paths[0]) as progress:
            outcome = gradtool.clip(
                place,
                in_place=in_place,
                dry_run=dry_run,
                follow_links=follow_links,
                progress=progress,
                **clipping,
                **writing,
                **measuring,
            )
    except SeveralCheckpointsError as error:
        found, picking = [error], Picking("clip", "clip", options_given(ctx, _SHOWING))
        reports.write(lambda name, style: listing_reporter(name)(found, style, picking), display)
        raise
    try:
        reports.write(lambda name, style: clip_reporter(name)(outcome, style), display)
    except FileAccessError as error:
        error.hint = f"{outcome.output} is written" if outcome.written else None
        raise


def _place(paths: list[str]) -> str | list[str]:
    """What the library is given: a path or a glob as it is, of several paths all that they name."""
    if not all(paths):
        raise UsageError("PATH is empty")
    from gradtool.places import Incomplete, places_among  # noqa: PLC0415 - not for --help

    places = places_among(paths)
    if len(places) == 1 and isinstance(places[0], Incomplete):
        raise places[0].error
    return paths[0] if len(paths) == 1 else list(expand_all(paths))


def _groups(texts: Sequence[str]) -> dict[str, float]:
    """Bounds by globs, of texts GLOB=X of which the last = divides."""
    found: dict[str, float] = {}
    for text in texts:
        glob, equals, bound = text.rpartition("=")
        if not equals or not glob:
            raise UsageError(f"--group {text!r}: give GLOB=X, as 'layers.*=1.0'")
        if glob in found:
            raise UsageError(f"--group {glob!r} is given twice")
        try:
            found[glob] = float(bound)
        except ValueError as error:
            raise UsageError(f"--group {text!r}: {bound!r} is no number") from error
    return found
