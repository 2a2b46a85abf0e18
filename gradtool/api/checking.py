"""Dumps judged, one by one and together."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

from gradtool.api.baselines import refuse_other_norm
from gradtool.api.comparison import PARTS
from gradtool.api.configured import config_of, request_of, rows_to_know
from gradtool.api.measuring import measure_as
from gradtool.api.references import Reference, reference_of
from gradtool.arguments import require
from gradtool.core.comparing.difference import Difference
from gradtool.core.file_names import in_order_of_steps, step_in
from gradtool.core.judging.baseline import Baseline
from gradtool.core.judging.policy import Override, Policy
from gradtool.core.judging.rule import Severity
from gradtool.core.judging.verdict import CheckOutcome, Verdict
from gradtool.core.measurement import Measurement
from gradtool.engine.progress import Progress, split_progress
from gradtool.errors import (
    EmptyDumpError,
    GradtoolError,
    RanksQuestionError,
    ResourceError,
    SeveralCheckpointsError,
)
from gradtool.places import grouped, label_of, place_of, place_of_found
from gradtool.request import MeasureOptions, MeasureRequest
from gradtool.rules.baseline_file import read_baseline
from gradtool.rules.baselines import aligned
from gradtool.rules.config_file import Config
from gradtool.rules.evidence import Evidence
from gradtool.rules.judge import Judge, judge_together, verdict_on_unreadable, without_others
from gradtool.rules.resolve import resolve
from gradtool.rules.settings import Settings, read_call
from gradtool.storage.memory import MEMORY_PATH


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
    found = config_of(config)
    configured = found.settings
    given = read_call(
        select=select, ignore=ignore, thresholds=thresholds, rtol=rtol, fail_on=fail_on
    )
    where = configured.baseline if baseline is None else os.fsdecode(baseline)
    known = None if where is None else read_baseline(where)
    request = request_of(options, configured)
    if known is not None:
        refuse_other_norm(known, request.norm_type)
    policy = resolve(
        configured,
        given,
        has_baseline=known is not None,
        has_reference=against is not None,
        norm_type=request.norm_type,
        config=found.path,
    )
    judge = Judge(policy)
    reference = reference_of(against, policy, found, request)
    judging = _Judging(judge, known, request, reference)
    dumps = grouped(sources)
    all_parts = split_progress(request.progress, [None] * len(dumps))
    verdicts = [
        verdict
        for dump, progress in zip(dumps, all_parts, strict=True)
        for verdict in judging.verdicts(dump, progress)
    ]
    in_order = in_order_of_steps(verdicts, lambda one: one.step, lambda one: one.path)
    kept, left_out = without_others(in_order)
    settled, together = judge_together(kept, policy)
    all_read = all(one.format is not None for one in settled)
    return CheckOutcome(
        verdicts=settled,
        findings=together,
        policy=policy,
        baseline=where,
        against=None if reference is None else reference.path,
        norm_type=request.norm_type,
        include=tuple(request.include),
        exclude=tuple(request.exclude),
        section=request.section,
        notes=(
            *judging.said,
            *([left_out] if left_out else []),
            *_without_effect(configured, policy, judge.idle_overrides if all_read else ()),
        ),
        elapsed_s=time.perf_counter() - started,
    )


def _without_effect(
    configured: Settings, policy: Policy, idle_overrides: Sequence[Override]
) -> Iterator[str]:
    """What a configuration says in vain, a sentence each."""
    for override in idle_overrides:
        patterns = ", ".join(map(repr, override.patterns))
        yield (
            f"the override for {patterns} decides nothing: no tensor, or only such as an "
            "earlier one fits"
        )
    idle = (configured.thresholds.keys() | configured.severities.keys()) - policy.rules.keys()
    for code in sorted(idle):
        yield f"{code} is set in the configuration and not in force"


@dataclass(frozen=True, slots=True)
class _Judging:
    """What dumps are judged by, and how they are measured; and what is said of several at once."""

    judge: Judge
    baseline: Baseline | None
    request: MeasureRequest
    reference: Reference | None = None
    said: dict[str, None] = field(default_factory=dict)

    def verdicts(self, source: object, progress: Progress) -> Iterator[Verdict]:
        """The verdict on one source, whatever is wrong with it; one for each step of a run."""
        started = time.perf_counter()
        place = place_of(source)
        path = MEMORY_PATH if place is None else label_of(place)
        parts = progress.divided(PARTS) if self.reference is not None else []
        try:
            ranges = rows_to_know(self.judge.policy)
            measurement = measure_as(self.request, source, progress, ranges)
            yield self._verdict(measurement, self._difference(source, parts), path, started)
        except RanksQuestionError as question:
            by_rank = replace(self, request=replace(self.request, ranks="each"))
            for verdict in by_rank.verdicts(source, progress):
                note = f"a rank judged by itself: {question}"
                yield replace(
                    verdict,
                    notes=(*verdict.notes, note),
                    essential_notes=(*verdict.essential_notes, note),
                )
        except SeveralCheckpointsError as error:
            parts = progress.divided(len(error.found))
            for found, part in zip(error.found, parts, strict=True):
                yield from self.verdicts(place_of_found(found), part)
        except ResourceError:
            raise  # nothing is known to be wrong with the dump
        except GradtoolError as error:
            if place is None and not isinstance(error, EmptyDumpError):
                raise  # not a sick dump, but no dump at all
            elapsed_s = time.perf_counter() - started
            yield verdict_on_unreadable(path, error, step_in(path), elapsed_s)
        finally:
            for part in (progress, *parts):
                part.finish()

    def _difference(self, source: object, parts: Sequence[Progress]) -> Difference | None:
        """How a source differs from the dump that it is to be the same as."""
        if self.reference is None:
            return None
        found = self.reference.beside(source, self.request, parts)
        self.said.update(dict.fromkeys(found.notes))
        return found

    def _verdict(
        self, measurement: Measurement, difference: Difference | None, path: str, started: float
    ) -> Verdict:
        evidence = Evidence(
            measurement,
            section_chosen=self.request.section is not None,
            is_chosen=self.request.names,
            bare=self.request.bare,
            difference=difference,
        )
        evidence = replace(evidence, baseline=self._baseline_of(evidence))
        step = measurement.step if measurement.step is not None else step_in(path)
        return self.judge.verdict(evidence, step, time.perf_counter() - started)

    def _baseline_of(self, evidence: Evidence) -> Baseline | None:
        """The baseline to compare with, under the names that the dump has for its tensors."""
        if self.baseline is None:
            return None
        names = [tensor.name for tensor in evidence.named_gradients]
        names += [item.name for item in evidence.skipped]
        baseline, note = aligned(self.baseline, names, self.request.bare)
        if note:
            self.said[note] = None
        return baseline
