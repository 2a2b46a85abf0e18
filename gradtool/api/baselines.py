"""Baselines made of healthy dumps."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Unpack

from gradtool.api.configured import config_of, request_of, rows_to_know
from gradtool.api.measuring import measure_as
from gradtool.api.remembering import Memory, remembering
from gradtool.arguments import require
from gradtool.core.figures import short
from gradtool.core.judging.baseline import Baseline
from gradtool.core.judging.policy import Policy
from gradtool.core.judging.rule import family
from gradtool.core.measurement import Measurement
from gradtool.engine.progress import Progress, split_progress
from gradtool.errors import (
    EmptyDumpError,
    NonFiniteError,
    NormRangeError,
    RefusedError,
    SeveralCheckpointsError,
    UsageError,
)
from gradtool.places import Place, place_of_found, places_among
from gradtool.request import MeasureOptions, MeasureRequest, agreed
from gradtool.rules.baseline.file import read_baseline, write_baseline
from gradtool.rules.baseline.names import baseline_of
from gradtool.rules.config_file import Config
from gradtool.rules.evidence import Evidence
from gradtool.rules.judge import Judge
from gradtool.rules.resolve import resolve
from gradtool.rules.settings import Settings
from gradtool.storage.workspace import exists_error, write_file

_LOG: Final = logging.getLogger("gradtool")


def save_baseline(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    force: bool = False,
    config: str | os.PathLike[str] | Config | None = None,
    cache: str | os.PathLike[str] | bool = False,
    **options: Unpack[MeasureOptions],
) -> Baseline:
    """Write what healthy dumps of one model were like to `out`, for `check` to compare with.

    Of several dumps, of some steps of a run say, the range of each norm is noted. They are
    judged first, by the rules of `check` that need no baseline.

    Args:
        sources: a path or paths, each as for `measure`.
        out: the file to write, whole or not at all.
        force: replace one that is there.
        config: as for `check`: it says by what to judge and which tensors to include.
        cache: as for `trend`: where rows of what was measured are kept. One that cannot be used is
            a warning in the log.
        options: as for `measure`.

    Raises:
        NonFiniteError: a dump is not finite: what is compared with must be well.
        NormRangeError: its norm is beyond float64.
        RefusedError: another rule finds an error.
        UsageError: `out` exists or is one of the dumps, these cannot be of the same model, or
            as for `check`.
        InputError: a dump cannot be read or holds no gradient, or `out` cannot be written.
    """
    found = config_of(config)
    return _save(sources, out, found, request_of(options, found.settings), cache, force=force)


def update_baseline(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | Config | None = None,
    cache: str | os.PathLike[str] | bool = False,
    **options: Unpack[MeasureOptions],
) -> tuple[Baseline, Baseline]:
    """Replace a baseline by one of other dumps, by norms of the same order; the old and the new.

    Raises as `save_baseline`; InputError where there is no baseline to replace.
    """
    old = read_baseline(os.fspath(path))
    found = config_of(config)
    request = request_of({"norm_type": old.norm_type, **options}, found.settings)
    refuse_other_norm(old, request.norm_type)
    return old, _save(sources, path, found, request, cache, force=True)


def refuse_other_norm(known: Baseline, norm_type: float) -> None:
    """UsageError for norms that cannot be compared with those of a baseline."""
    if known.norm_type != norm_type:
        raise UsageError(
            f"{known.path}: holds norms of order {short(known.norm_type)}, not {short(norm_type)}",
            hint=f"give `norm_type={short(known.norm_type)}`",
        )


def _save(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    found: Config,
    request: MeasureRequest,
    cache: str | os.PathLike[str] | bool,
    *,
    force: bool,
) -> Baseline:
    paths = [os.fspath(one) for one in _listed(sources)]
    path = os.fspath(out)
    require(bool(paths), "give at least one dump")
    require(bool(path), "the path of the baseline is empty")
    if os.path.lexists(path) and not force:
        raise exists_error(path)
    judging = replace(found.settings, select=_without_comparison(found.settings))
    policy = resolve(
        judging,
        Settings(),
        has_baseline=False,
        norm_type=request.norm_type,
        config=found.path,
        may_be_idle=True,
    )
    places = places_among(paths)
    all_parts = split_progress(request.progress, [None] * len(places))
    with remembering(cache, request) as memory:
        healthy = _Healthy(request, policy, memory)
        dumps = [
            dump
            for place, progress in zip(places, all_parts, strict=True)
            for dump in healthy.dumps(place, progress)
        ]
    for note in memory.notes:
        _LOG.warning("%s", note)
    _spare(path, [file for dump in dumps for file in dump.measurement.files])
    baseline = baseline_of(path, dumps)
    write_file(path, write_baseline(baseline).encode())
    return baseline


def _listed(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> Sequence[str | os.PathLike[str]]:
    return [sources] if isinstance(sources, str | os.PathLike) else sources


def _without_comparison(settings: Settings) -> tuple[str, ...] | None:
    """What a configuration selects, without rules that compare: there is nothing to yet."""
    if settings.select is None:
        return None
    kept = tuple(code for code in settings.select if family(code) != "baseline")
    return kept or None


def _spare(path: str, files: Sequence[str]) -> None:
    """UsageError where a baseline at `path` would replace what it is made of."""
    if os.path.exists(path) and any(os.path.samefile(path, file) for file in files):
        raise UsageError(f"{path} is one of the dumps that the baseline is made of")


@dataclass(frozen=True, slots=True)
class _Healthy:
    """How dumps are measured and judged, to be compared with."""

    request: MeasureRequest
    policy: Policy
    memory: Memory

    def dumps(self, place: Place, progress: Progress) -> Iterator[Evidence]:
        """What lies at a place: a dump fit to be compared with, or the steps of a run."""
        try:
            yield self._one(place, progress)
        except SeveralCheckpointsError as error:
            parts = progress.divided(len(error.found))
            for found, part in zip(error.found, parts, strict=True):
                yield from self.dumps(place_of_found(found), part)
        finally:
            progress.finish()

    def _one(self, place: Place, progress: Progress) -> Evidence:
        """A dump fit to be compared with."""
        measurement = agreed(self._measured(place, progress))
        chosen = self.request.section is not None
        evidence = Evidence(measurement, section_chosen=chosen, bare=self.request.bare)
        _require_healthy(evidence, self.policy)
        return evidence

    def _measured(self, place: Place, progress: Progress) -> Measurement:
        ranges = rows_to_know(self.policy)

        def measure() -> Measurement:
            return measure_as(self.request, place, progress, ranges)

        return measure() if ranges else self.memory.measured(place, measure)


def _require_healthy(evidence: Evidence, policy: Policy) -> None:
    """Raise the error that says why no baseline is made of a dump that is not well."""
    path = evidence.measurement.path
    if not evidence.gradients:
        raise EmptyDumpError(path, "holds no gradients", hint="choose with `section`")
    hint = f"`gradtool check {path}` says more"
    bad = tuple(one.name for one in evidence.gradients if one.stats.nonfinite)
    if bad:
        problem = f"{path}: {bad[0]!r} is not finite: no baseline is made of it"
        raise NonFiniteError(problem, bad, hint=hint)
    if not math.isfinite(norm := evidence.summary.norm):
        raise NormRangeError(f"{path}: its norm, {norm}, is beyond what a baseline can hold")
    for finding in Judge(policy).findings(evidence):
        if finding.severity == "error":
            about = f"{finding.tensor!r} " if finding.tensor else ""
            problem = f"{path}: {finding.code} {finding.name}: {about}{finding.message}"
            raise RefusedError(f"{problem}: no baseline is made of it", hint=hint)
