"""`gradtool baseline`."""

from __future__ import annotations

from typing import Annotated

import typer

import gradtool  # whose names load array libraries on first use, which --help is not
from gradtool.cli import check_options, compute_options, console, options
from gradtool.cli.paths import expand_all
from gradtool.core.figures import counted
from gradtool.core.judging.baseline import Baseline
from gradtool.errors import UsageError
from gradtool.report.escaping import brief

BaselineOutput = Annotated[
    str, typer.Option("--output", "-o", metavar="FILE", help="The baseline to write.")
]


def save(  # noqa: PLR0913, PLR0917 - one parameter for each option
    paths: options.Paths,
    output: BaselineOutput,
    force: options.Force = False,
    config: check_options.ConfigFile = None,
    isolated: check_options.Isolated = False,
    norm_type: options.NormType = 2.0,
    include: options.Include = None,
    exclude: options.Exclude = None,
    section: options.Section = None,
    loss_scale: options.LossScale = None,
    raw_dtype: options.RawDType = None,
    verify: options.Verify = False,
    threads: compute_options.Threads = None,
) -> None:
    """Note what healthy dumps of one model are like: norms, shapes, dtypes.

    Of several dumps, of some steps of a run say, the range of each norm is noted. The file is
    made to be kept in git: sorted, a line for each tensor.
    """
    if output == "-":
        raise UsageError("--output takes a file: a baseline is read again")
    saved = gradtool.save_baseline(
        list(expand_all(paths)),
        output,
        force=force,
        config=check_options.read_config(config, isolated=isolated),
        norm_type=norm_type,
        include=include or (),
        exclude=exclude or (),
        section=section,
        loss_scale=loss_scale,
        raw_dtype=raw_dtype,
        verify=verify,
        threads=threads,
    )
    console.write_result(f"{_saved(saved)}\n{_advice(saved)}", None)


def update(  # noqa: PLR0913, PLR0917 - one parameter for each option
    paths: options.Paths,
    baseline: check_options.BaselineFile = None,
    config: check_options.ConfigFile = None,
    isolated: check_options.Isolated = False,
    include: options.Include = None,
    exclude: options.Exclude = None,
    section: options.Section = None,
    loss_scale: options.LossScale = None,
    raw_dtype: options.RawDType = None,
    verify: options.Verify = False,
    threads: compute_options.Threads = None,
    show_all: options.All = False,
    color: options.ColorChoice = options.Color.AUTO,
) -> None:
    """Replace a baseline by one of other dumps, and say what changed.

    Without --baseline it is the one of the configuration.
    """
    from gradtool.report.check.baseline_text import difference  # noqa: PLC0415 - loads rich

    configured = check_options.read_config(config, isolated=isolated)
    path = baseline or configured.settings.baseline
    if path is None:
        raise UsageError("which baseline? give --baseline FILE, or configure one")
    old, new = gradtool.update_baseline(
        list(expand_all(paths)),
        path,
        config=configured,
        include=include or (),
        exclude=exclude or (),
        section=section,
        loss_scale=loss_scale,
        raw_dtype=raw_dtype,
        verify=verify,
        threads=threads,
    )
    style = console.style(color, None, quiet=False, show_all=show_all)
    console.write_result(f"{difference(old, new, style)}{_saved(new)}\n", None)


def _advice(baseline: Baseline) -> str:
    if len(baseline.dumps) > 1:
        return ""
    return "norms differ from step to step: a baseline of several steps is a better one\n"


def _saved(baseline: Baseline) -> str:
    tensors, dumps = counted(len(baseline.tensors), "tensor"), counted(len(baseline.dumps), "dump")
    return f"{brief(baseline.path)}: {tensors} of {dumps}"
