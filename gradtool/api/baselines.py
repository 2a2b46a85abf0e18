"""Baselines made of healthy dumps."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Unpack

from gradtool.api.configured import config_of, with_configured
from gradtool.api.measuring import measure
from gradtool.core.baseline import Baseline
from gradtool.errors import EmptyDumpError, NonFiniteError, NormRangeError, UsageError
from gradtool.job import MeasureOptions, require
from gradtool.rules.baseline_file import read_baseline, write_baseline
from gradtool.rules.baselines import baseline_of
from gradtool.rules.config_file import Config
from gradtool.rules.evidence import Evidence
from gradtool.storage.workspace import exists_error, write_file


def save_baseline(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    force: bool = False,
    config: str | os.PathLike[str] | Config | None = None,
    **options: Unpack[MeasureOptions],
) -> Baseline:
    """Write what healthy dumps of one model were like to `out`, for `check` to compare with.

    Of several dumps, of some steps of a run say, the range of each norm is noted.

    Args:
        sources: paths, each as for `measure`.
        out: the file to write, whole or not at all.
        force: replace one that is there.
        config: as for `check`; it may say which tensors to include.
        options: as for `measure`.

    Raises:
        NonFiniteError: a dump is not finite: what is compared with must be well.
        NormRangeError: its norm is beyond float64.
        UsageError: `out` exists, a dump cannot be of the same model, or as for `measure`.
        InputError: a dump cannot be read or holds no gradient, or `out` cannot be written.
    """
    require(bool(sources), "give at least one dump")
    path = os.fspath(out)
    require(bool(path), "the path of the baseline is empty")
    if os.path.lexists(path) and not force:
        raise exists_error(path)
    choices = with_configured(options, config_of(config).settings)
    baseline = baseline_of(path, [_healthy(os.fspath(one), choices) for one in sources])
    write_file(path, write_baseline(baseline).encode())
    return baseline


def update_baseline(
    sources: Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | Config | None = None,
    **options: Unpack[MeasureOptions],
) -> tuple[Baseline, Baseline]:
    """Replace a baseline by one of other dumps, by norms of the same order; the old and the new.

    Raises as `save_baseline`; InputError where there is no baseline to replace.
    """
    old = read_baseline(os.fspath(path))
    asked = options.get("norm_type", old.norm_type)
    if asked != old.norm_type:
        raise UsageError(f"{old.path}: holds norms of order {old.norm_type:g}, not {asked:g}")
    options["norm_type"] = old.norm_type
    return old, save_baseline(sources, path, force=True, config=config, **options)


def _healthy(path: str, options: MeasureOptions) -> Evidence:
    """A dump fit to be compared with."""
    measurement = measure(path, **options)
    evidence = Evidence(measurement, section_chosen=options.get("section") is not None)
    if not evidence.gradients:
        raise EmptyDumpError(path, "holds no gradients", hint="choose with --section")
    bad = tuple(one.name for one in evidence.gradients if one.stats.nonfinite)
    if bad:
        raise NonFiniteError(
            f"{path}: {bad[0]!r} is not finite: no baseline is made of it",
            bad,
            hint=f"`gradtool check {path}` says more",
        )
    if not math.isfinite(norm := evidence.summary.norm):
        raise NormRangeError(f"{path}: its norm, {norm}, is beyond what a baseline can hold")
    return evidence
