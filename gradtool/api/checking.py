"""Dumps judged, one by one and together."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

from gradtool.api.judging import judging_by
from gradtool.api.remembering import remembering
from gradtool.arguments import require
from gradtool.core.file_names import in_order_of_steps
from gradtool.core.judging.rule import Severity
from gradtool.core.judging.verdict import CheckOutcome
from gradtool.engine.progress import split_progress
from gradtool.places import grouped
from gradtool.request import MeasureOptions
from gradtool.rules.config_file import Config
from gradtool.rules.settings import read_call
from gradtool.rules.together import judge_together, without_others


def check(
    *sources: str | bytes | os.PathLike[str] | Any,
    baseline: str | os.PathLike[str] | None = None,
    against: str | bytes | os.PathLike[str] | Any = None,
    config: str | os.PathLike[str] | Config | None = None,
    select: str | Sequence[str] | None = None,
    ignore: str | Sequence[str] = (),
    thresholds: Mapping[str, object] | None = None,
    rtol: float | None = None,
    fail_on: Severity | None = None,
    cache: str | os.PathLike[str] | bool = False,
    **options: Unpack[MeasureOptions],
) -> CheckOutcome:
    """Judge gradients, saved or in memory, by rules: one verdict for each dump, one over all.

    A dump that cannot be read is a finding, and the others are judged. What is not finite is
    judged before anything is compared.

    Args:
        sources: each as for `measure`; dumps of one run, in any order. Paths of shards or ranks
            that belong together are one dump, and a directory with a run is all its steps.
        baseline: a file that `gradtool baseline save` wrote, to compare with.
        against: a dump as for `measure`, to compare with element by element as `diff` does.
        config: a `gradtool.toml`, or a `pyproject.toml` with `[tool.gradtool.check]`; by
            default none is looked for.
        select: codes of the rules to apply, or beginnings such as "GT2"; all by default.
        ignore: codes of those not to apply.
        thresholds: what to set, as `{"GT203.max_norm": 50}`; also `GT202.severity`.
        rtol: relative tolerance of the comparisons with a norm, with a dump and with a baseline:
            `GT401.rtol`, `GT411.rtol`, and less 1 `GT402.max_factor` and `GT403.max_factor`.
        fail_on: the least severity that fails, "error" by default.
        cache: as for `trend`: where rows of what was measured are kept.
        options: as for `measure`: norm_type, include, exclude, section, loss_scale, raw_dtype,
            verify, apply_scales, threads, backend, device, device_memory, progress (over all
            sources).

    Returns:
        The verdicts in the order of steps (those that dumps note, else those in their paths; of
        the paths, where a step occurs twice),
        findings about several dumps, and the policy that was in force.

    Raises:
        UsageError: an argument or the configuration is wrong, down to a key's name.
        InputError: the baseline cannot be read.
        ResourceError: as for `measure`.
    """
    started = time.perf_counter()
    require(bool(sources), "give at least one source to check")
    judging = judging_by(
        read_call(select=select, ignore=ignore, thresholds=thresholds, rtol=rtol, fail_on=fail_on),
        baseline=baseline,
        against=against,
        config=config,
        options=options,
    )
    request, policy = judging.request, judging.judge.policy
    dumps = grouped(sources)
    all_parts = split_progress(request.progress, [None] * len(dumps))
    with remembering(cache, request) as memory:
        remembering_all = replace(judging, remembered=memory.measured)
        verdicts = [
            judged.verdict
            for dump, progress in zip(dumps, all_parts, strict=True)
            for judged in remembering_all.each(dump, progress)
        ]
    in_order = in_order_of_steps(verdicts, lambda one: one.step, lambda one: one.path)
    kept, left_out = without_others(in_order)
    settled, together = judge_together(kept, policy)
    all_read = all(one.format is not None for one in settled)
    return CheckOutcome(
        verdicts=settled,
        findings=together,
        policy=policy,
        baseline=judging.baseline_path,
        against=judging.reference_path,
        norm_type=request.norm_type,
        include=tuple(request.include),
        exclude=tuple(request.exclude),
        section=request.section,
        notes=(
            *judging.notes(all_read=all_read),
            *([left_out] if left_out else []),
            *memory.notes,
        ),
        elapsed_s=time.perf_counter() - started,
    )
