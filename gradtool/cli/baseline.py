"""`gradtool baseline`."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

import gradtool  # whose names load array libraries on first use, which --help is not
from gradtool.cli.console import Showing, write_result
from gradtool.cli.options import groups
from gradtool.cli.options.command import command
from gradtool.cli.paths import expand_all
from gradtool.core.figures import counted
from gradtool.core.judging.baseline import Baseline
from gradtool.errors import UsageError
from gradtool.report.escaping import brief

Writing: TypeAlias = Annotated[
    groups.Arguments,
    groups.writing_to(
        str,
        typer.Option(..., "--output", "-o", metavar="FILE", help="The baseline to write."),
    ),
]
Shown: TypeAlias = Annotated[Showing, groups.differences(groups.ALL_TENSORS)]


@command
def save(
    *,
    paths: groups.Paths,
    writing: Writing,
    configured: groups.Configured,
    measuring: groups.Measuring,
) -> None:
    """Note what healthy dumps of one model are like: norms, shapes, dtypes.

    Of several dumps, of some steps of a run say, the range of each norm is noted. The file is
    made to be kept in git: sorted, a line for each tensor.
    """
    if writing["out"] == "-":
        raise UsageError("--output takes a file: a baseline is read again")
    saved = gradtool.save_baseline(
        list(expand_all(paths)), config=configured.config, **writing, **measuring
    )
    write_result(f"{_saved(saved)}\n{_advice(saved)}")


@command
def update(
    *,
    paths: groups.Paths,
    compared: groups.Comparing,
    measuring: groups.MeasuringAgain,
    showing: Shown,
) -> None:
    """Replace a baseline by one of other dumps, and say what changed.

    Without --baseline it is the one of the configuration.
    """
    from gradtool.report.check.baseline_text import difference  # noqa: PLC0415 - loads rich

    if compared.baseline is None:
        raise UsageError("which baseline? give --baseline FILE, or configure one")
    old, new = gradtool.update_baseline(
        list(expand_all(paths)), compared.baseline, config=compared.config, **measuring
    )
    write_result(f"{difference(old, new, showing.style())}{_saved(new)}\n")


def _advice(made: Baseline) -> str:
    if len(made.dumps) > 1:
        return ""
    return "norms differ from step to step: a baseline of several steps is a better one\n"


def _saved(made: Baseline) -> str:
    tensors, dumps = counted(len(made.tensors), "tensor"), counted(len(made.dumps), "dump")
    return f"{brief(made.path)}: {tensors} of {dumps}"
