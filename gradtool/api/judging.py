"""Dumps measured and judged one by one, whatever is wrong with them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final, TypeAlias

from gradtool.api.baselines import refuse_other_norm
from gradtool.api.configured import config_of, request_of, rows_to_know
from gradtool.api.diff.comparison import PARTS
from gradtool.api.diff.references import Reference, reference_of
from gradtool.api.measuring import measure_as
from gradtool.core.comparing.difference import Difference
from gradtool.core.file_names import step_in
from gradtool.core.judging.baseline import Baseline
from gradtool.core.judging.policy import Policy
from gradtool.core.judging.verdict import Verdict
from gradtool.core.measurement import Measurement
from gradtool.core.order.structure import Structure
from gradtool.core.shapes.rows import Rows
from gradtool.engine.progress import Progress
from gradtool.errors import (
    EmptyDumpError,
    GradtoolError,
    RanksQuestionError,
    ResourceError,
    SeveralCheckpointsError,
)
from gradtool.places import label_of, place_of, place_of_found
from gradtool.request import MeasureOptions, MeasureRequest
from gradtool.rules.baseline.file import read_baseline
from gradtool.rules.baseline.names import aligned
from gradtool.rules.config_file import Config
from gradtool.rules.evidence import Evidence, StructureOf
from gradtool.rules.judge import Judge, verdict_on_unreadable
from gradtool.rules.resolve import resolve
from gradtool.rules.settings import Settings
from gradtool.storage.memory import MEMORY_PATH

_STRUCTURES: Final = 2
"""How many are remembered: the steps of a run have one, or two where gradients have two names."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict on a dump, and what it rests on; None where the dump could not be measured."""

    verdict: Verdict
    evidence: Evidence | None


Remembered: TypeAlias = Callable[[object, Callable[[], Measurement]], Measurement]
"""The measurement of a source: one made before, or what the function makes."""


def _measured_anew(_source: object, measure: Callable[[], Measurement]) -> Measurement:
    return measure()


@dataclass(frozen=True, slots=True)
class Judging:
    """What dumps are judged by, and how they are measured; and what is said of several at once.

    `remembered` gives the measurement of a source, by a function that makes it where none is known;
    `structure_of` what names tell, which the steps of a run have in common.
    """

    judge: Judge
    baseline: Baseline | None
    reference: Reference | None
    request: MeasureRequest
    configured: Settings
    remembered: Remembered = _measured_anew
    said: dict[str, None] = field(default_factory=dict)
    structure_of: StructureOf = field(default_factory=lambda: lru_cache(_STRUCTURES)(Structure))

    @property
    def baseline_path(self) -> str | None:
        """Path of the baseline that is compared with."""
        return None if self.baseline is None else self.baseline.path

    @property
    def reference_path(self) -> str | None:
        """Path of the dump that is compared with, element by element."""
        return None if self.reference is None else self.reference.path

    @property
    def ranges(self) -> tuple[Rows, ...]:
        """The rows of tensors that a rule in force has to know apart from others."""
        return rows_to_know(self.judge.policy)

    @property
    def of_dumps_alone(self) -> Policy | None:
        """The policy, if what it says of a dump depends on nothing else.

        None with a baseline or exceptions: what they are in vain is known only once all is judged.
        """
        policy = self.judge.policy
        return None if self.baseline is not None or policy.overrides else policy

    def notes(self, *, all_read: bool) -> Iterator[str]:
        """What was said of several dumps at once, and what a configuration says in vain."""
        yield from self.said
        for override in self.judge.idle_overrides if all_read else ():
            patterns = ", ".join(map(repr, override.patterns))
            yield (
                f"the override for {patterns} decides nothing: no tensor, or only such as an "
                "earlier one fits"
            )
        configured = self.configured
        idle = configured.thresholds.keys() | configured.severities.keys()
        for code in sorted(idle - self.judge.policy.rules.keys()):
            yield f"{code} is set in the configuration and not in force"

    def each(self, source: object, progress: Progress) -> Iterator[Judged]:
        """One source, whatever is wrong with it; each step of a run, each rank by itself."""
        started = time.perf_counter()
        try:
            yield self.one(source, progress, started)
        except RanksQuestionError as question:
            each = replace(self.request, ranks="each")
            by_rank = replace(self, request=each, remembered=_measured_anew)
            for judged in by_rank.each(source, progress):
                yield _noted(judged, f"a rank judged by itself: {question}")
        except SeveralCheckpointsError as error:
            parts = progress.divided(len(error.found))
            for found, part in zip(error.found, parts, strict=True):
                yield from self.each(place_of_found(found), part)
        finally:
            progress.finish()

    def _difference(self, source: object, parts: Sequence[Progress]) -> Difference | None:
        """How a source differs from the dump that it is to be the same as."""
        if self.reference is None:
            return None
        found = self.reference.beside(source, self.request, parts)
        self.said.update(dict.fromkeys(found.notes))
        return found

    def one(self, source: object, progress: Progress, started: float) -> Judged:
        """One dump, even one that cannot be read, `started` being when work on it began.

        Raises SeveralCheckpointsError and RanksQuestionError where the source is not one dump, and
        ResourceError, as nothing is known to be wrong with it then.
        """
        place = place_of(source)
        path = MEMORY_PATH if place is None else label_of(place)
        parts = progress.divided(PARTS) if self.reference is not None else []
        try:
            measurement = self._measured(source, progress)
            return self.judged(measurement, self._difference(source, parts), path, started)
        except (ResourceError, SeveralCheckpointsError, RanksQuestionError):
            raise
        except GradtoolError as error:
            if place is None and not isinstance(error, EmptyDumpError):
                raise  # not a sick dump, but no dump at all
            elapsed_s = time.perf_counter() - started
            return Judged(verdict_on_unreadable(path, error, step_in(path), elapsed_s), None)
        finally:
            for part in parts:
                part.finish()

    def _measured(self, source: object, progress: Progress) -> Measurement:
        ranges = self.ranges

        def measure() -> Measurement:
            return measure_as(self.request, source, progress, ranges)

        return measure() if ranges else self.remembered(source, measure)

    def judged(
        self, measurement: Measurement, difference: Difference | None, path: str, started: float
    ) -> Judged:
        """The verdict on a dump at a path that was measured, work on it having begun `started`."""
        step = measurement.step if measurement.step is not None else step_in(path)
        evidence = Evidence(
            measurement,
            step=step,
            section_chosen=self.request.section is not None,
            is_chosen=self.request.names,
            bare=self.request.bare,
            difference=difference,
            structure_of=self.structure_of,
        )
        evidence = evidence.but(baseline=self._baseline_of(evidence))
        verdict = self.judge.verdict(evidence, time.perf_counter() - started)
        return Judged(verdict, evidence)

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


def judging_by(
    given: Settings,
    *,
    baseline: str | os.PathLike[str] | None,
    against: Any = None,
    config: str | os.PathLike[str] | Config | None,
    options: MeasureOptions,
) -> Judging:
    """How a call wants dumps judged, by what is `given` in it and by the configuration.

    Raises UsageError for what is wrong with either, and InputError for the baseline and for the
    dump `against` which others are held.
    """
    found = config_of(config)
    where = found.settings.baseline if baseline is None else os.fsdecode(baseline)
    known = None if where is None else read_baseline(where)
    request = request_of(options, found.settings)
    if known is not None:
        refuse_other_norm(known, request.norm_type)
    policy = resolve(
        found.settings,
        given,
        has_baseline=known is not None,
        has_reference=against is not None,
        norm_type=request.norm_type,
        config=found.path,
    )
    reference = reference_of(against, policy, found, request)
    return Judging(Judge(policy), known, reference, request, found.settings)


def _noted(judged: Judged, note: str) -> Judged:
    verdict = judged.verdict
    noted = replace(
        verdict,
        notes=(*verdict.notes, note),
        essential_notes=(*verdict.essential_notes, note),
    )
    return replace(judged, verdict=noted)
