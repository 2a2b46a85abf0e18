"""Baselines made of healthy dumps."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Unpack

from gradtool.api.configured import config_of, request_of, rows_to_know
from gradtool.api.measuring import measure_as
from gradtool.arguments import require
from gradtool.core.figures import short
from gradtool.core.judging.baseline import Baseline
from gradtool.core.judging.policy import Policy
from gradtool.core.judging.rule import family
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


def save_baseline(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    force: bool = False,
    config: str | os.PathLike[str] | Config | None = None,
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
    return _save(sources, out, found, request_of(options, found.settings), force=force)


def update_baseline(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | Config | None = None,
    **options: Unpack[MeasureOptions],
) -> tuple[Baseline, Baseline]:
    """Replace a baseline by one of other dumps, by norms of the same order; the old and the new.

    Raises as `save_baseline`; InputError where there is no baseline to replace.
    """
    old = read_baseline(os.fspath(path))
    found = config_of(config)
    request = request_of({"norm_type": old.norm_type, **options}, found.settings)
    refuse_other_norm(old, request.norm_type)
    return old, _save(sources, path, found, request, force=True)


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
    dumps = [
        dump
        for place, progress in zip(places, all_parts, strict=True)
        for dump in _healthy_dumps(place, request, policy, progress)
    ]
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


def _healthy_dumps(
    place: Place, request: MeasureRequest, policy: Policy, progress: Progress
) -> Iterator[Evidence]:
    """What lies at a place: a dump fit to be compared with, or the steps of a run."""
    try:
        yield _healthy(place, request, policy, progress)
    except SeveralCheckpointsError as error:
        parts = progress.divided(len(error.found))
        for found, part in zip(error.found, parts, strict=True):
            yield from _healthy_dumps(place_of_found(found), request, policy, part)
        progress.finish()


def _healthy(place: Place, request: MeasureRequest, policy: Policy, progress: Progress) -> Evidence:
    """A dump fit to be compared with."""
    measurement = agreed(measure_as(request, place, progress, rows_to_know(policy)))
    path = measurement.path
    evidence = Evidence(measurement, section_chosen=request.section is not None, bare=request.bare)
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
    return evidence
