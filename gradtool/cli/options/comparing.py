"""The options that say what of two dumps is the same, as arguments for `gradtool.diff`."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import typer

from gradtool.cli.options import values
from gradtool.cli.options.command import Group, Row, in_panel
from gradtool.cli.options.groups import Arguments
from gradtool.cli.options.help import JUDGING, LOOKING

_BOUNDS: Final = (
    Row(
        "rtol",
        float | None,
        typer.Option(
            None,
            "--rtol",
            metavar="R",
            callback=values.tolerance,
            help="Elements agree if |b - a| <= atol + R * |a|; without --atol that is 0.",
        ),
    ),
    Row(
        "atol",
        float | None,
        typer.Option(None, "--atol", metavar="X", callback=values.tolerance, help="See --rtol."),
    ),
    Row(
        "max_rel_l2",
        float | None,
        typer.Option(
            None,
            "--max-rel-l2",
            metavar="R",
            callback=values.tolerance,
            help="Tensors agree if |b - a| <= R * |a|, these being norms.",
        ),
    ),
    Row(
        "ulps",
        int | None,
        typer.Option(
            None,
            "--ulps",
            metavar="N",
            min=0,
            help="Elements agree if they are at most N numbers of their dtype apart.",
        ),
    ),
    Row(
        "equal_nan",
        bool,
        typer.Option(
            False, "--equal-nan", help="Any NaN agrees with any; else with one of the same bits."
        ),
    ),
)
_NAMES: Final = (
    Row(
        "name_map",
        list[str] | None,
        typer.Option(
            None,
            "--map",
            metavar="OLD=NEW",
            help="What names of A are in B, with * for any text: 'model.*=*'. Either may end in "
            "rows: '*.k.weight=*.kv.weight[0:8]'. Repeatable.",
        ),
    ),
    Row(
        "transpose",
        list[str] | None,
        typer.Option(
            None,
            "--transpose",
            metavar="GLOB",
            help="Tensors with such names have their last two axes the other way round in B.",
        ),
    ),
)


def _given(**options: object) -> Arguments:
    return {name: value for name, value in options.items() if value is not None}


Comparing: TypeAlias = Annotated[
    Arguments, Group((*in_panel(LOOKING, *_NAMES), *in_panel(JUDGING, *_BOUNDS)), _given)
]
