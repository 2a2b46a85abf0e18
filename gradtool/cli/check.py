"""`gradtool check`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import typer

import gradtool  # whose names load array libraries on first use, which --help is not
from gradtool.cli import check_options, compute_options, console, options
from gradtool.cli.paths import expand_all, is_among
from gradtool.cli.progress import ByteProgress
from gradtool.cli.signals import ended_by_signals
from gradtool.errors import FileAccessError, UsageError
from gradtool.report import check_reporter
from gradtool.report.escaping import brief
from gradtool.report.model import Style
from gradtool.shortening import LONGEST_LINE, LONGEST_NAME

if TYPE_CHECKING:
    from gradtool.core.judging.verdict import CheckOutcome

EPILOG = """\
\b
Examples:
  gradtool check grads.safetensors
  gradtool check 'run/step*/*.safetensors' --max-consecutive-nonfinite 2
  gradtool check grads.pt --baseline grads.baseline.json --fail-on warning
  gradtool check grads.npz --expect-norm 9.01 --rtol 1e-3
  gradtool check grads.pt -f junit:report.xml -f github
"""


_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz", ".npy", ".index.json")
"""Of what may belong to a dump that is a directory."""


def check(  # noqa: PLR0913, PLR0917 - one parameter for each option
    paths: options.Paths,
    formats: check_options.Formats = None,
    baseline: check_options.BaselineFile = None,
    select: check_options.Select = None,
    ignore: check_options.Ignore = None,
    assignments: check_options.Assignments = None,
    config: check_options.ConfigFile = None,
    isolated: check_options.Isolated = False,
    fail_on: check_options.FailOnChoice = None,
    exit_zero: check_options.ExitZero = False,
    min_tensors: check_options.MinTensors = None,
    expect: check_options.Expect = None,
    expect_norm: check_options.ExpectNorm = None,
    rtol: check_options.RTol = None,
    max_consecutive: check_options.MaxConsecutive = None,
    norm_type: options.NormType = 2.0,
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
    show_all: check_options.AllFindings = False,
    quiet: options.Quiet = False,
    no_progress: options.NoProgress = False,
    color: options.ColorChoice = options.Color.AUTO,
) -> None:
    """Judge gradients: NaN, overflow, dead layers, drift from a baseline, and more.

    Several dumps are those of one run, judged in the order of steps. Exits 1 for findings and 3
    if a PATH could not be read.
    """
    if not all(paths):
        raise UsageError("a PATH is empty")
    sinks = check_options.read_sinks(formats or ())
    found = list(expand_all(paths))
    configured = check_options.read_config(config, isolated=isolated)
    _spare_files(sinks, [*found, baseline or configured.settings.baseline, configured.path])
    thresholds = _thresholds(
        assignments or (),
        [
            ("GT006.min_tensors", min_tensors),
            ("GT007.names", expect),
            ("GT103.max_consecutive", max_consecutive),
            ("GT401.norm", expect_norm),
        ],
    )
    progress = ByteProgress(paths[0], enabled=not (quiet or no_progress), color=color)
    with ended_by_signals(progress), progress:
        outcome = gradtool.check(
            *found,
            baseline=baseline,
            config=configured,
            select=check_options.read_codes(select),
            ignore=check_options.read_codes(ignore) or (),
            thresholds=thresholds,
            rtol=rtol,
            fail_on=None if fail_on is None else fail_on.value,
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
    _report(outcome, sinks, console.style(color, None, quiet=quiet, show_all=show_all))
    raise typer.Exit(0 if exit_zero and outcome.exit_code == 1 else outcome.exit_code)


def _thresholds(
    assignments: Sequence[str], options: Sequence[tuple[str, object]]
) -> dict[str, object]:
    """What `--set` and the options of their own for some thresholds ask for."""
    found = check_options.read_assignments(assignments)
    for key, value in options:
        if value is None:
            continue
        if key in found:
            raise UsageError(f"--set {key}: an option of its own sets it too")
        found[key] = value
    return found


def _spare_files(sinks: Sequence[check_options.Sink], read: Sequence[str | None]) -> None:
    """Raise UsageError if a report would replace a file that is read."""
    existing = any(sink.file is not None and os.path.exists(sink.file) for sink in sinks)
    files = list(_with_parts(filter(None, read))) if existing else []
    for sink in sinks:
        if sink.file is not None and is_among(sink.file, files):
            raise UsageError(f"--format {sink.format}:{sink.file} is one of the files to read")


def _with_parts(paths: Iterable[str]) -> Iterator[str]:
    """All of `paths`, and the tensor files in directories and beside indices among them."""
    for path in paths:
        yield path
        folder = path if os.path.isdir(path) else os.path.dirname(path) or os.curdir
        if os.path.isdir(path) or path.endswith(".json"):
            with suppress(OSError):  # it is a finding, later
                for name in os.listdir(folder):
                    if name.lower().endswith(_SUFFIXES):
                        yield os.path.join(folder, name)


def _report(outcome: CheckOutcome, sinks: Sequence[check_options.Sink], style: Style) -> None:
    """Write every report, and what could not be judged to stderr too."""
    from gradtool.report.check.words import sentence  # noqa: PLC0415 - not for --help

    for verdict in outcome.verdicts:
        if verdict.summary is None:
            for finding in verdict.findings:
                start = f"{console.ERROR}{brief(verdict.path, LONGEST_NAME)}: "
                said = sentence(finding, verdict, LONGEST_LINE - len(start))
                console.tell(f"{start}{said}\n")
    plain = Style(quiet=style.quiet, show_all=style.show_all)
    failures: list[FileAccessError] = []
    for sink in sinks:
        text = check_reporter(sink.format)(outcome, style if sink.file is None else plain)
        try:
            console.write_result(text, sink.file)
            if sink.format == "github" and (summary := os.environ.get("GITHUB_STEP_SUMMARY")):
                _append(summary, check_reporter("markdown")(outcome, plain))
        except FileAccessError as error:
            failures.append(error)  # the other reports are as good as before
    for failure in failures[1:]:
        console.say_error(failure)
    if failures:
        raise failures[0]


def _append(path: str, text: str) -> None:
    """Add to the summary of a step, to which steps before may have written."""
    try:
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise FileAccessError(path, f"cannot be written: {reason}") from error
