"""`gradtool inspect`."""

from __future__ import annotations

from collections.abc import Iterable

import typer

import gradtool  # whose names load array libraries on first use, which --help is not
from gradtool.cli import compute_options, console, options
from gradtool.cli.paths import expand_all, for_each, is_among
from gradtool.cli.progress import ByteProgress
from gradtool.cli.signals import ended_by_signals
from gradtool.core.clipping import TORCH_EPS
from gradtool.core.names import group_namer
from gradtool.errors import UsageError
from gradtool.report import reporter
from gradtool.report.inspect.arrangement import report_on
from gradtool.report.model import InspectReport

EPILOG = """\
\b
Examples:
  gradtool inspect grads.safetensors
  gradtool inspect grads.pt --max-norm 1.0
  gradtool inspect run/ -g 'layers.*'
  gradtool inspect 'step_*.safetensors' -q
  gradtool inspect grads.npz -f json | jq '.reports[0].total.norm'
"""


def inspect(  # noqa: PLR0913, PLR0917 - one parameter for each option
    paths: options.Paths,
    norm_type: options.NormType = 2.0,
    include: options.Include = None,
    exclude: options.Exclude = None,
    section: options.Section = None,
    max_norm: options.MaxNorm = None,
    eps: options.Eps = TORCH_EPS,
    group_by: options.GroupBy = None,
    sort: options.Sort = options.Order.NAME,
    top: options.Top = None,
    show_all: options.All = False,
    report_format: options.Format = options.ReportFormat.TABLE,
    output: options.Output = None,
    loss_scale: options.LossScale = None,
    raw_dtype: options.RawDType = None,
    verify: options.Verify = False,
    threads: compute_options.Threads = None,
    backend: compute_options.BackendName = compute_options.Backend.AUTO,
    device: compute_options.Device = None,
    device_memory: compute_options.DeviceMemory = None,
    quiet: options.Quiet = False,
    no_progress: options.NoProgress = False,
    color: options.ColorChoice = options.Color.AUTO,
) -> None:
    """Show how large gradients are, by tensor and in total, and where they broke.

    Exits 0 whatever the gradients are like, and 3 if a PATH could not be read.
    """
    _check(paths, output, group_by, top, show_all=show_all)
    if max_norm is not None and norm_type <= 0.0:
        raise UsageError("--max-norm needs a --norm-type above 0: no scaling reaches a count")

    def report(path: str) -> InspectReport:
        progress = ByteProgress(path, enabled=not (quiet or no_progress), color=color)
        with ended_by_signals(progress), progress:
            measurement = gradtool.measure(
                path,
                norm_type=norm_type,
                include=include or (),
                exclude=exclude or (),
                section=section,
                loss_scale=loss_scale,
                raw_dtype=raw_dtype,
                verify=verify,
                threads=threads,
                backend=backend.value,
                device=device,
                device_memory=device_memory,
                progress=progress,
            )
        return report_on(
            measurement, order=sort, top=top, group_by=group_by, max_norm=max_norm, eps=eps
        )

    reports, exit_code = for_each(paths, report)
    if reports:
        _spare_files(output, [file for one in reports for file in one.measurement.files])
        style = console.style(color, output, quiet=quiet, show_all=show_all or top is not None)
        console.write_result(reporter(report_format)(reports, style), output)
    raise typer.Exit(exit_code)


def _check(
    paths: list[str], output: str | None, group_by: str | None, top: int | None, *, show_all: bool
) -> None:
    """Raise UsageError for what would otherwise be known only after hours of reading."""
    if top is not None and show_all:
        raise UsageError("--top and --all exclude each other")
    if not all(paths):
        raise UsageError("a PATH is empty")
    _spare_files(output, expand_all(paths))
    if group_by is not None:
        group_namer(group_by)


def _spare_files(output: str | None, files: Iterable[str]) -> None:
    """Raise UsageError if a report at `output` would replace one of `files`."""
    if output is not None and is_among(output, files):
        raise UsageError(f"--output {output} is one of the files to inspect")
