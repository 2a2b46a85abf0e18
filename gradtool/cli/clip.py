"""`gradtool clip`."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

import gradtool  # lazy: its names load array libraries on first use
from gradtool.cli.console import Display
from gradtool.cli.options import groups, values
from gradtool.cli.options.command import Row, command
from gradtool.cli.reports import Reports
from gradtool.core.clip.plan import NonFinite
from gradtool.errors import FileAccessError, SeveralCheckpointsError, UsageError
from gradtool.report import CLIP_REPORTERS, clip_reporter, listing_reporter
from gradtool.storage.listing import expanded

EPILOG = """\
\b
Examples:
  gradtool clip grads.safetensors --max-norm 1.0 -o clipped.safetensors
  gradtool clip grads.pt --max-norm 1.0 --in-place
  gradtool clip training.pt --section grads --max-norm 1.0 -o clipped.pt
  gradtool clip run/checkpoint-500 --max-norm 1.0 -o run/clipped-500
  gradtool clip grads.npz --clip-value 0.5 --nonfinite zero --dry-run
"""


Path: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        help="A file, a checkpoint directory or an index file.",
        show_default=False,
    ),
]
InPlace: TypeAlias = Annotated[
    bool, typer.Option("--in-place", help="Replace PATH, which must be a single file.")
]
DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")
]
FollowLinks: TypeAlias = Annotated[
    bool,
    typer.Option("--follow-links", help="Copy along what a directory's links name outside of it."),
]
Clipping: TypeAlias = Annotated[
    groups.Arguments,
    groups.clipping_to(
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
            help="A file; for a directory or index a new directory.",
        ),
    ),
]
ReportOptions: TypeAlias = Annotated[Reports, groups.reports_without_output(CLIP_REPORTERS)]
DisplayOptions: TypeAlias = Annotated[
    Display, groups.display("With --per-tensor or --clip-value, list every tensor that changes.")
]


@command
def clip(
    *,
    path: Path,
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
    path = _single(path)
    if (out := writing.get("out")) == "-":
        raise UsageError("--output takes a file or a directory: what clip writes is no text")
    reports.refuse_to_replace([path])
    if out:
        reports.refuse_inside(out)
    try:
        with display.progress(path) as progress:
            outcome = gradtool.clip(
                path,
                in_place=in_place,
                dry_run=dry_run,
                follow_links=follow_links,
                progress=progress,
                **clipping,
                **writing,
                **measuring,
            )
    except SeveralCheckpointsError as error:
        found = [error]
        reports.write(lambda name, style: listing_reporter(name)(found, style), display)
        raise
    try:
        reports.write(lambda name, style: clip_reporter(name)(outcome, style), display)
    except FileAccessError as error:
        error.hint = f"{outcome.output} is written" if outcome.written else None
        raise


def _single(path: str) -> str:
    """The only path that `path` names; UsageError if a glob matches several."""
    if not path:
        raise UsageError("PATH is empty")
    matches = expanded(path)
    if len(matches) > 1:
        raise UsageError(f"{path} matches {len(matches)} paths; clip takes one at a time")
    return matches[0]
