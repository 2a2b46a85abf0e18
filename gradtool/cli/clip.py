"""`gradtool clip`."""

from __future__ import annotations

import gradtool  # whose names load array libraries on first use, which --help is not
from gradtool.cli import compute_options, console, options
from gradtool.cli.paths import expand
from gradtool.cli.progress import ByteProgress
from gradtool.cli.signals import ended_by_signals
from gradtool.core.clipping import TORCH_EPS
from gradtool.errors import FileAccessError, UsageError
from gradtool.report import clip_reporter

EPILOG = """\
\b
Examples:
  gradtool clip grads.safetensors --max-norm 1.0 -o clipped.safetensors
  gradtool clip grads.pt --max-norm 1.0 --in-place
  gradtool clip training.pt --section grads --max-norm 1.0 -o clipped.pt
  gradtool clip run/checkpoint-500 --max-norm 1.0 -o run/clipped-500
  gradtool clip grads.npz --clip-value 0.5 --nonfinite zero --dry-run
"""


def clip(  # noqa: PLR0913, PLR0917 - one parameter for each option
    path: options.Path,
    max_norm: options.ClipTo = None,
    clip_value: options.ClipValue = None,
    output: options.ClipOutput = None,
    in_place: options.InPlace = False,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    follow_links: options.FollowLinks = False,
    norm_type: options.NormType = 2.0,
    eps: options.Eps = TORCH_EPS,
    total_norm: options.TotalNorm = None,
    per_tensor: options.PerTensor = False,
    nonfinite: options.NonFiniteChoice = options.NonFinite.ERROR,
    include: options.Include = None,
    exclude: options.Exclude = None,
    section: options.Section = None,
    loss_scale: options.LossScale = None,
    raw_dtype: options.RawDType = None,
    verify: options.Verify = False,
    threads: compute_options.Threads = None,
    backend: compute_options.BackendName = compute_options.Backend.AUTO,
    device: compute_options.Device = None,
    device_memory: compute_options.DeviceMemory = None,
    report_format: options.ClipFormatChoice = options.ClipFormat.TABLE,
    show_all: options.AllChanged = False,
    quiet: options.Quiet = False,
    no_progress: options.NoProgress = False,
    color: options.ColorChoice = options.Color.AUTO,
) -> None:
    """Clip gradients by norm or by value and write them back.

    The output is in the format of the input. Exits 1, with nothing written, if gradients
    are not finite or have no norm in float64.
    """
    path = _one(path)
    if output == "-":
        raise UsageError("--output takes a file or a directory: what clip writes is no text")
    progress = ByteProgress(path, enabled=not (quiet or no_progress), color=color)
    with ended_by_signals(progress), progress:
        outcome = gradtool.clip(
            path,
            output,
            max_norm=max_norm,
            clip_value=clip_value,
            eps=eps,
            total_norm=total_norm,
            per_tensor=per_tensor,
            nonfinite=nonfinite.value,
            in_place=in_place,
            force=force,
            dry_run=dry_run,
            follow_links=follow_links,
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
    style = console.style(color, None, quiet=quiet, show_all=show_all)
    try:
        console.write_result(clip_reporter(report_format)(outcome, style), None)
    except FileAccessError as error:
        error.hint = f"{outcome.output} is written" if outcome.written else None
        raise


def _one(path: str) -> str:
    if not path:
        raise UsageError("PATH is empty")
    found = expand(path)
    if len(found) > 1:
        raise UsageError(f"{path} matches {len(found)} paths; clip takes one at a time")
    return found[0]
