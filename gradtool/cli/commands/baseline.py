"""`gradtool baseline`."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

import gradtool  # lazy: its names load array libraries on first use
from gradtool.cli.console import Display, write_result
from gradtool.cli.options import groups
from gradtool.cli.options.command import command
from gradtool.cli.options.keeping import CacheIfGiven
from gradtool.core.figures import counted
from gradtool.core.judging.baseline import Baseline
from gradtool.errors import UsageError
from gradtool.report.escaping import brief

EPILOG = """\
\b
Examples:
  gradtool baseline save 'run/step*.safetensors' -o grads.baseline.json
  gradtool check grads.safetensors --baseline grads.baseline.json
  gradtool baseline update 'run/step*.safetensors' --baseline grads.baseline.json
"""

NO_PROOF = (
    "it holds norms, and equal norms are not equal gradients: for these there is gradtool diff\n"
)

Writing: TypeAlias = Annotated[
    groups.Arguments,
    groups.writing_to(
        str,
        typer.Option(..., "--output", "-o", metavar="FILE", help="The baseline to write."),
    ),
]
DisplayOptions: TypeAlias = Annotated[Display, groups.display_without_quiet(groups.ALL_TENSORS)]


@command
def save(
    *,
    paths: groups.Paths,
    writing: Writing,
    configured: groups.Configured,
    measuring: groups.Measuring,
    kept: CacheIfGiven,
    display: groups.ProgressOptions,
) -> None:
    """Note what healthy dumps of one model are like: norms, shapes, dtypes.

    Of several dumps, of some steps of a run say, the range of each norm is noted. The file is
    made to be kept in git: sorted, a line for each tensor.
    """
    if writing["out"] == "-":
        raise UsageError("--output takes a file: a baseline is read again")
    with display.progress(paths[0]) as progress:
        baseline = gradtool.save_baseline(
            paths,
            config=configured.config,
            cache=kept,
            progress=progress,
            **writing,
            **measuring,
        )
    write_result(f"{_summary(baseline)}\n{_advice(baseline)}{NO_PROOF}")


@command
def update(
    *,
    paths: groups.Paths,
    configured: groups.ConfiguredWithBaseline,
    measuring: groups.MeasuringWithoutNormType,
    kept: CacheIfGiven,
    display: DisplayOptions,
) -> None:
    """Replace a baseline by one of other dumps, and say what changed.

    Without --baseline it is the one of the configuration.
    """
    from gradtool.report.check.baseline_text import difference  # noqa: PLC0415 - loads rich

    if configured.baseline is None:
        raise UsageError("which baseline? give --baseline FILE, or configure one")
    with display.progress(paths[0]) as progress:
        old, new = gradtool.update_baseline(
            paths,
            configured.baseline,
            config=configured.config,
            cache=kept,
            progress=progress,
            **measuring,
        )
    write_result(f"{difference(old, new, display.style())}{_summary(new)}\n{NO_PROOF}")


def _advice(saved: Baseline) -> str:
    if len(saved.dumps) > 1:
        return ""
    return "norms differ from step to step: a baseline of several steps is a better one\n"


def _summary(saved: Baseline) -> str:
    tensors, dumps = counted(len(saved.tensors), "tensor"), counted(len(saved.dumps), "dump")
    return f"{brief(saved.path)}: {tensors} of {dumps}"
