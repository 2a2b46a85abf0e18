"""The steps of runs, followed from the first to the last."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Unpack

from gradtool.api.judging import Judged, Judging, judging_by
from gradtool.api.recorded import recorded, records_among
from gradtool.api.remembering import Memory, remembering
from gradtool.arguments import globs, number, require
from gradtool.core.clipping import TORCH_EPS
from gradtool.core.file_names import in_order_of_steps, step_in
from gradtool.core.judging.rule import Severity
from gradtool.core.names import NameFilter, group_namer, name_filter, nearest_names, no_name
from gradtool.core.trends.conclusions import conclusions_of
from gradtool.core.trends.log import Log
from gradtool.core.trends.logged import beside_log
from gradtool.core.trends.steps import Step, parts_of, step_of
from gradtool.core.trends.trend import Conclusion, Run, Trend
from gradtool.engine.progress import Progress, split_progress
from gradtool.errors import RanksQuestionError, SeveralCheckpointsError, UsageError
from gradtool.formats import open_checkpoint
from gradtool.places import grouped, is_path, label_of, place_of, place_of_found
from gradtool.request import MeasureOptions
from gradtool.rules.config_file import Config
from gradtool.rules.judge import verdict_on_unreadable
from gradtool.rules.settings import read_call
from gradtool.rules.together import judge_together, without_others
from gradtool.storage.listing import expanded
from gradtool.storage.logs.reading import read_log


def trend(  # noqa: PLR0913 - one for each option of the command
    *sources: str | bytes | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    baseline: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | Config | None = None,
    select: str | Sequence[str] | None = None,
    ignore: str | Sequence[str] = (),
    thresholds: Mapping[str, object] | None = None,
    rtol: float | None = None,
    fail_on: Severity | None = None,
    max_norm: float | None = None,
    eps: float | None = None,
    tensor: str | Iterable[str] = (),
    group_by: str | None = None,
    last: int | None = None,
    log: str | os.PathLike[str] | None = None,
    log_key: str | None = None,
    cache: str | os.PathLike[str] | bool = False,
    **options: Unpack[MeasureOptions],
) -> Trend:
    """Follow the gradients of a run step by step: which step broke first, and in which tensor.

    Args:
        sources: paths and globs: a directory with the steps of a run, or the dumps of single steps,
            in any order, or the store of a `gradtool.torch.Recorder`. Each such store and each
            directory with several steps is a run of its own, all else together is one.
        baseline: what each step is compared with, as for `check`, by whose rules all are judged.
        config: as for `check`, and so are
        select: and as for `check` too
        ignore: are these,
        thresholds: by which steps are judged,
        rtol: compared with a baseline,
        fail_on: and fail.
        max_norm: also say what clipping to it would multiply each step by, with
        eps: added to the norm, torch's 1e-6 by default.
        tensor: a glob or globs of names of tensors that are followed by themselves too.
        group_by: a depth such as "2" or a pattern such as "layers.*": groups that are.
        last: only the newest so many steps of each run.
        log: a file in which the trainer logged the norm, to be held beside the true one: Trainer's
            `trainer_state.json`, JSON lines, CSV under a line of names, or the text of torchtune's
            DiskLogger.
        log_key: what the norm is called there, where that is not found by its name: in JSON
            `train/grad_norm` for one in an object `train`.
        cache: a file in which rows are kept, so that no dump is measured twice; True for the one in
            the user's cache directory. It is made where it is missing, and what stands in it is
            believed. One that cannot be used is a note.
        options: as for `measure`.

    Returns:
        The steps of each run in their order, each measured once, and what they say together.

    Raises:
        UsageError: an argument or the configuration is wrong; no step holds gradients, and no
            section was chosen; it is not clear what in the log is the norm; or, as for `measure`,
            what ranks hold is a question.
        InputError: the baseline or the log cannot be read, or no source exists.
        ResourceError: as for `measure`. A step that cannot be read is a step with that finding.
    """
    started = time.perf_counter()
    require(bool(sources), "give at least one run to follow")
    are_places = all(place_of(source) is not None for source in sources)
    require(are_places, "a run is on disk: give paths")
    require(last is None or (type(last) is int and last >= 1), f"`last` must be >= 1, not {last!r}")
    judging = judging_by(
        read_call(select=select, ignore=ignore, thresholds=thresholds, rtol=rtol, fail_on=fail_on),
        baseline=baseline,
        config=config,
        options=options,
    )
    bound, added = clipping_to(max_norm, eps, judging.request.norm_type)
    wanted = globs("tensor", tensor)
    require(log is not None or log_key is None, "`log_key` needs a `log`")
    logged = None if log is None else read_log(os.fsdecode(log), log_key)
    if group_by is not None:
        group_namer(group_by)  # refuses a wrong pattern before anything is read
    is_followed = name_filter(wanted, (), judging.request.bare) if wanted else no_name
    with remembering(cache, judging.request, judging.of_dumps_alone) as memory:
        following = Following(judging, memory, is_followed, group_by, last, logged)
        runs = tuple(following.runs(sources))
    steps = [step for run in runs for step in run.steps]
    if all(step.verdict.format is None for step in steps):
        _require_any(sources)
    require(logged is None or len(runs) == 1, f"`log` is of one run, and these are {len(runs)}")
    following.require_followed(wanted, runs)
    all_read = all(step.verdict.format is not None for step in steps)
    return Trend(
        runs=runs,
        policy=judging.judge.policy,
        baseline=judging.baseline_path,
        norm_type=judging.request.norm_type,
        max_norm=bound,
        eps=added,
        notes=(
            *judging.notes(all_read=all_read),
            *(() if logged is None else logged.notes),
            *memory.notes,
        ),
        elapsed_s=time.perf_counter() - started,
    )


def clipping_to(
    max_norm: float | None, eps: float | None, norm_type: float
) -> tuple[float | None, float]:
    """What to say clipping to, and what is added to norms; UsageError where that cannot be."""
    bound = None if max_norm is None else number("max_norm", max_norm)
    added = TORCH_EPS if eps is None else number("eps", eps)
    require(bound is None or bound >= 0.0, f"`max_norm` must be a number >= 0, not {bound}")
    require(0.0 <= added < math.inf, f"`eps` must be a finite number >= 0, not {added}")
    by_count = bound is not None and norm_type <= 0.0
    require(not by_count, "`max_norm` needs a `norm_type` above 0: no scaling reaches a count")
    return bound, added


def _require_any(sources: Iterable[object]) -> None:
    """Raise what `measure` does for the first of paths of which none exists."""
    each = ([one] if is_path(one) else one for one in sources)
    paths = [os.fsdecode(path) for one in each for path in one]  # type: ignore[attr-defined]
    if not any(os.path.exists(found) for path in paths for found in expanded(path)):
        open_checkpoint(paths[0])


@dataclass(frozen=True, slots=True)
class Following:
    """How steps are made of dumps."""

    judging: Judging
    memory: Memory
    is_followed: NameFilter
    group_by: str | None
    last: int | None
    log: Log | None
    names: dict[str, None] = field(default_factory=dict)
    read: list[str] = field(default_factory=list)

    def require_followed(self, wanted: Sequence[str], runs: Sequence[Run]) -> None:
        """UsageError where no step that could be read has a tensor that is to be followed."""
        followed = any(step.tensors for run in runs for step in run.steps)
        if wanted and self.names and not followed:
            problem = f"`tensor` {wanted[0]!r:.200} matches no tensor of any step"
            raise UsageError(problem, hint=nearest_names(wanted[0], self.names))

    def runs(self, sources: Sequence[object]) -> Iterator[Run]:
        """Each store of a recorder and each directory of several steps; then all else as one."""
        records, places = records_among(grouped(sources))
        for path in records:
            yield self.run_of(path, list(map(self.row, recorded(path, self.judging, self.last))))
        dumps = self._newest(places)
        alone: list[Step] = []
        progress_of = split_progress(self.judging.request.progress, [None] * len(dumps))
        for place, progress in zip(dumps, progress_of, strict=True):
            try:
                alone.append(self.step(place, progress))
            except SeveralCheckpointsError as error:
                yield self.run_of(error.path, list(self._found(error, progress)))
        if alone:
            first, more = sources[0], f" and {len(alone) - 1:,} more" if alone[1:] else ""
            name = f"{alone[0].path}{more}"
            name = os.fsdecode(first) if is_path(first) and not sources[1:] else name
            yield self.run_of(name, alone)

    def _newest(self, places: Sequence[object]) -> Sequence[object]:
        """Of dumps whose paths all tell of another step those that are asked for."""
        numbered = [(step_in(label_of(at)), place) for place in places if (at := place_of(place))]
        numbers = {step for step, _ in numbered if step is not None}
        if self.last is None or len(numbers) < len(places):
            return places
        newest = sorted(numbered, key=lambda pair: pair[0] or 0)[-self.last :]
        return [place for _, place in newest]

    def _found(self, error: SeveralCheckpointsError, progress: Progress) -> Iterator[Step]:
        found = error.found if self.last is None else error.found[-self.last :]
        parts = progress.divided(len(found))
        for one, part in zip(found, parts, strict=True):
            try:
                yield self.step(place_of_found(one), part)
            except SeveralCheckpointsError as inner:
                yield from self._found(inner, part)
        progress.finish()

    def step(self, source: object, progress: Progress) -> Step:
        """One dump; UsageError where the first one read holds no gradients or asks for `ranks`.

        Where ranks part later, that is what somebody wants to see of a run, and ends nothing.
        """
        try:
            step = self._remembered(source, progress)
        except RanksQuestionError as question:
            if not self.read:
                raise
            path = question.path
            step = Step(verdict_on_unreadable(path, question, step_in(path), 0.0))
        if step.verdict.kinds and not self.read:
            kinds = " and ".join(kind.kind for kind in step.verdict.kinds)
            raise UsageError(f"{step.path}: holds no gradients, but {kinds}", hint="give `section`")
        if step.verdict.is_judged:
            self.read[:] = [step.path]
        return step

    def _remembered(self, source: object, progress: Progress) -> Step:
        """One dump, as it is remembered, else measured."""
        started = time.perf_counter()
        place = place_of(source)
        recalled = None if place is None else self.memory.recall(place)
        judging = self.judging
        if recalled is not None:
            judging = replace(judging, remembered=recalled.measured)
        row = None if self._is_asked_for_tensors else recalled
        try:
            if row is not None and (known := row.step()) is not None:
                return known
            judged = judging.one(source, progress, started)
            step = self.row(judged)
            if row is not None and judged.evidence is not None:
                row.keep_step(step)
            return step
        finally:
            progress.finish()

    @property
    def _is_asked_for_tensors(self) -> bool:
        return self.is_followed is not no_name or self.group_by is not None

    def row(self, judged: Judged) -> Step:
        """What was judged as a step, with the tensors and groups that are asked for."""
        verdict, evidence = judged.verdict, judged.evidence
        if evidence is None:
            return Step(verdict)
        measurement = evidence.measurement
        step = step_of(
            verdict,
            evidence.gradients,
            evidence.structure.digest,
            in_model_order=measurement.in_model_order,
        )
        if not self._is_asked_for_tensors:
            return step
        self.names.update(dict.fromkeys(one.name for one in evidence.gradients))
        chosen = [(one.name, one.stats) for one in evidence.gradients if self.is_followed(one.name)]
        gradients = replace(measurement, tensors=evidence.named_gradients)
        grouped_by = () if self.group_by is None else gradients.grouped(self.group_by)
        groups = [(one.name, one.stats) for one in grouped_by if one.has_norm]
        return replace(
            step, tensors=parts_of(chosen, step.total), groups=parts_of(groups, step.total)
        )

    def run_of(self, name: str, steps: Sequence[Step]) -> Run:
        """A run of these steps, judged together and in their order."""
        in_order = in_order_of_steps(steps, lambda one: one.number, lambda one: one.path)
        if self.last is not None:
            in_order = in_order[-self.last :]
        kept, left_out = without_others([step.verdict for step in in_order])
        if left_out:
            self.judging.said[left_out] = None
        judged = set(map(id, kept))
        in_order = [step for step in in_order if id(step.verdict) in judged]
        verdicts, findings = judge_together(kept, self.judging.judge.policy)
        settled = tuple(
            replace(step, verdict=verdict) for step, verdict in zip(in_order, verdicts, strict=True)
        )
        logged: tuple[Conclusion, ...] = ()
        if self.log is not None:
            settled, logged = beside_log(settled, self.log)
        return Run(name, settled, conclusions_of(settled, logged), findings)
