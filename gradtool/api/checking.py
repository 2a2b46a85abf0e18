"""Dumps judged, one by one and together."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from gradtool.api.configured import config_of, with_configured
from gradtool.api.measuring import measure
from gradtool.core.baseline import Baseline
from gradtool.core.names import name_filter
from gradtool.core.policy import Policy
from gradtool.core.rule import Severity
from gradtool.core.steps import step_in
from gradtool.core.tensors import MEMORY
from gradtool.core.verdict import CheckOutcome, Verdict
from gradtool.engine.schedule import Progress
from gradtool.errors import EmptyDumpError, GradtoolError, UsageError
from gradtool.job import Job, MeasureOptions, require
from gradtool.report.check_text import render
from gradtool.report.model import Style
from gradtool.rules.baseline_file import read_baseline
from gradtool.rules.config_file import Config
from gradtool.rules.evidence import Evidence
from gradtool.rules.judge import judge_together, verdict_on, verdict_on_unreadable
from gradtool.rules.resolve import resolve
from gradtool.rules.settings import read_call


def check(
    *sources: str | bytes | os.PathLike[str] | Any,
    baseline: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | Config | None = None,
    select: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    thresholds: Mapping[str, object] | None = None,
    rtol: float | None = None,
    fail_on: Severity | None = None,
    **options: Unpack[MeasureOptions],
) -> CheckOutcome:
    """Judge gradients, saved or in memory, by rules: one verdict for each dump, one over all.

    A dump that cannot be read is a finding, and the others are judged. What is not finite is
    judged before anything is compared.

    Args:
        sources: each as for `measure`; dumps of one run, in any order.
        baseline: a file that `gradtool baseline save` wrote, to compare with.
        config: a `gradtool.toml`, or a `pyproject.toml` with `[tool.gradtool.check]`; by
            default none is looked for.
        select: codes of the rules to apply, or beginnings such as "GT2"; all by default.
        ignore: codes of those not to apply.
        thresholds: what to set, as `{"GT203.max_norm": 50}`; also `GT202.severity`.
        rtol: relative tolerance of the comparisons with a norm and with a baseline:
            `GT401.rtol`, and less 1 `GT402.max_factor` and `GT403.max_factor`.
        fail_on: the least severity that fails, "error" by default.
        options: as for `measure`: norm_type, include, exclude, section, loss_scale, raw_dtype,
            verify, threads, progress (over all sources).

    Returns:
        The verdicts in the order of steps (those that dumps note, else those in their paths),
        findings about several dumps, and the policy that was in force.

    Raises:
        UsageError: an argument or the configuration is wrong, down to a key's name.
        InputError: the baseline cannot be read.
    """
    started = time.perf_counter()
    require(bool(sources), "give at least one source to check")
    found = config_of(config)
    configured = found.settings
    given = read_call(
        select=select, ignore=ignore, thresholds=thresholds, rtol=rtol, fail_on=fail_on
    )
    where = os.fspath(baseline) if baseline is not None else configured.baseline
    known = None if where is None else read_baseline(where)
    policy = resolve(configured, given, has_baseline=known is not None, config=found.path)
    choices = with_configured(options, configured)
    job = Job.checked(**choices)  # what is wrong with them is wrong with every dump
    _refuse_other_norm(known, job.norm_type)
    judging = _Judging(policy, known, choices, name_filter(job.include, job.exclude))
    progress = _Total(sources, choices.get("progress"))
    verdicts = [judging.verdict(source, progress.of(source)) for source in sources]
    verdicts.sort(key=lambda one: (one.step is None, one.step or 0))
    settled, together = judge_together(verdicts, policy)
    measured_any = any(one.format is not None for one in settled)
    return CheckOutcome(
        verdicts=settled,
        findings=together,
        policy=policy,
        baseline=where,
        notes=tuple(
            f"the override for {', '.join(map(repr, one.patterns))} decides nothing: no tensor, "
            "or only such as an earlier one fits"
            for one in (policy.idle_overrides if measured_any else ())
        ),
        elapsed_s=time.perf_counter() - started,
    )


def assert_healthy(
    source: str | bytes | os.PathLike[str] | Any,
    *,
    baseline: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    select: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    thresholds: Mapping[str, object] | None = None,
    rtol: float | None = None,
    fail_on: Severity | None = None,
    **options: Unpack[MeasureOptions],
) -> None:
    """For test suites: AssertionError with the report, unless `check` finds gradients healthy.

        gradtool.assert_healthy(model)
        gradtool.assert_healthy("run/grads.safetensors", thresholds={"GT203.max_norm": 10})

    Takes what `check` takes for one source, and raises what it raises.
    """
    outcome = check(
        source,
        baseline=baseline,
        config=config,
        select=select,
        ignore=ignore,
        thresholds=thresholds,
        rtol=rtol,
        fail_on=fail_on,
        **options,
    )
    if outcome.exit_code:
        raise AssertionError(render(outcome, Style(quiet=True)))


def _refuse_other_norm(known: Baseline | None, norm_type: float) -> None:
    if known is not None and known.norm_type != norm_type:
        raise UsageError(
            f"{known.path}: holds norms of order {known.norm_type:g}, not {norm_type:g}",
            hint=f"give --norm-type {known.norm_type:g}",
        )


@dataclass(frozen=True, slots=True)
class _Judging:
    """What dumps are judged by, and how they are measured."""

    policy: Policy
    baseline: Baseline | None
    options: MeasureOptions
    is_chosen: Callable[[str], bool]

    def verdict(self, source: object, progress: Progress | None) -> Verdict:
        """The verdict on one source, whatever is wrong with it."""
        started = time.perf_counter()
        is_path = isinstance(source, str | bytes | os.PathLike)
        path = os.fsdecode(source) if isinstance(source, str | bytes | os.PathLike) else MEMORY.path
        options: MeasureOptions = {**self.options, "progress": progress}
        try:
            measurement = measure(source, **options)
        except GradtoolError as error:
            if not is_path and not isinstance(error, EmptyDumpError):
                raise  # not a sick dump, but no dump at all
            elapsed_s = time.perf_counter() - started
            return verdict_on_unreadable(path, error, step_in(path), elapsed_s)
        evidence = Evidence(
            measurement,
            section_chosen=self.options.get("section") is not None,
            baseline=self.baseline,
            is_chosen=self.is_chosen,
        )
        step = measurement.step if measurement.step is not None else step_in(path)
        return verdict_on(evidence, self.policy, step, time.perf_counter() - started)


class _Total:
    """Progress over several sources as one piece of work."""

    def __init__(self, sources: Sequence[object], progress: Progress | None) -> None:
        self._progress = progress
        self._done = 0
        self._sizes = [0] if progress is None else [_size(source) for source in sources]
        self._todo = sum(self._sizes)

    def of(self, source: object) -> Progress | None:
        """The observer of one source, which is the next one."""
        progress = self._progress
        if progress is None:
            return None
        size, before = _size(source), self._done
        self._done += size

        def advance(done: int, todo: int) -> None:
            progress(before + size * done // max(todo, 1), self._todo)

        return advance


def _size(source: object) -> int:
    """Bytes that there may be to read; 0 where nobody knows."""
    if not isinstance(source, str | bytes | os.PathLike):
        return 0
    try:
        if not os.path.isdir(source):
            return os.path.getsize(source)
        with os.scandir(os.fsdecode(source)) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.is_file())
    except (OSError, ValueError):
        return 0
