"""`gradtool diff`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

import gradtool  # lazy: its names load array libraries on first use
from gradtool.cli.console import Display
from gradtool.cli.options import groups
from gradtool.cli.options.command import command
from gradtool.cli.options.comparing import Comparing
from gradtool.cli.paths import expand_all, one_place
from gradtool.cli.reports import Reports
from gradtool.cli.spelling import with_options
from gradtool.errors import UsageError
from gradtool.report import DIFF_REPORTERS, diff_reporter

if TYPE_CHECKING:  # it loads all readers, which --help does not need
    from gradtool.core.comparing.difference import Difference

EPILOG = """\
\b
Examples:
  gradtool diff old.safetensors new.safetensors
  gradtool diff single.pt ddp_checkpoint/ --max-rel-l2 1e-3
  gradtool diff torch.npz mlx.npz --map 'model.*=*' --transpose '*.weight'
  gradtool diff a.safetensors b.safetensors -f json | jq .first_difference
  gradtool diff a.safetensors b.safetensors -f html:differences.html
"""

Reference: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="A",
        help="The reference: a file, a checkpoint directory, an index file or a quoted glob.",
        show_default=False,
    ),
]
Compared: TypeAlias = Annotated[
    str, typer.Argument(metavar="B", help="What is compared with it.", show_default=False)
]
ReportOptions: TypeAlias = Annotated[Reports, groups.reports_in(DIFF_REPORTERS)]
DisplayOptions: TypeAlias = Annotated[
    Display, groups.display("List every tensor, those that are the same too.")
]


@command
def diff(
    *,
    a: Reference,
    b: Compared,
    comparing: Comparing,
    configured: groups.ConfiguredForDiff,
    reading: groups.MeasuringWithoutNormType,
    reports: ReportOptions,
    display: DisplayOptions,
) -> None:
    """Show what differs between two dumps of gradients, where first, and by how much.

    A is the reference. Without a tolerance only the same bits are the same. Exits 0 if both are
    the same, 1 if they differ, and 3 if one could not be read.
    """
    for path in (a, b):
        if not path:
            raise UsageError("a PATH is empty")
    reports = reports.with_step_summary()
    reports.refuse_to_replace([*expand_all([a, b]), *configured.files])

    with display.progress(a) as progress:
        difference = gradtool.diff(
            one_place(a),
            one_place(b),
            config=configured.config,
            progress=progress,
            **comparing,
            **reading,
        )
    difference = _with_options(difference)
    reports.refuse_to_replace([*difference.a.files, *difference.b.files])
    reports.write(lambda name, style: diff_reporter(name)(difference, style), display)
    raise typer.Exit(0 if difference else 1)


def _with_options(difference: Difference) -> Difference:
    """The difference, its diagnosis naming options instead of the library's arguments."""
    told = (replace(one, text=with_options(one.text)) for one in difference.diagnosis)
    return replace(difference, diagnosis=tuple(told))
