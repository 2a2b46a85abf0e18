"""Gradients clipped and written back."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import zip_longest
from typing import Literal, Unpack

from gradtool.api.clip.plans import Planning
from gradtool.api.clip.source import Source, catalogues, source_of
from gradtool.api.clip.writing import place_for, planned_clip, write
from gradtool.api.configured import requested
from gradtool.arguments import number, require
from gradtool.core.clip.outcome import ClipOutcome, Clipped
from gradtool.core.clip.plan import ClipRequest, NonFinite
from gradtool.core.clip.refusals import refuse_unclippable
from gradtool.core.clipping import AGC_EPS, TORCH_EPS
from gradtool.core.measurement import Measurement
from gradtool.engine.progress import split_progress
from gradtool.errors import FileAccessError, UsageError
from gradtool.places import Incomplete, place_of
from gradtool.request import MeasureOptions, MeasureRequest, working
from gradtool.storage.files import require_space
from gradtool.storage.target import Target, target_at, target_in_place


def clip(  # noqa: PLR0913 - one for each option of the command
    path: str | bytes | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | bytes | os.PathLike[str] | None = None,
    *,
    max_norm: float | None = None,
    clip_value: float | None = None,
    groups: Mapping[str, float] | None = None,
    agc: float | None = None,
    eps: float | Literal["auto"] = "auto",
    total_norm: float | None = None,
    per_tensor: bool = False,
    nonfinite: NonFinite = "error",
    in_place: bool = False,
    force: bool = False,
    dry_run: bool = False,
    follow_links: bool = False,
    **options: Unpack[MeasureOptions],
) -> ClipOutcome:
    """Clip the gradients saved at `path`, and write them to `out` in the format they are in.

        clip_coef = min(1, max_norm / (total_norm + eps));  g <- g * clip_coef

    All but the elements that change, and checksums over them, stays byte for byte as it is; an
    archive in which some of them are deflated is packed anew, member by member.
    `out` appears whole or not at all, and what it replaces is there until it does, whoever is
    killed on the way. The norm after clipping is measured on the bytes written.

    Args:
        path: as for `measure`, saved ones.
        out: a file for a file; for a directory or an index file a new directory, to which
            all other files are copied too; for several files a new directory for those alone.
        max_norm: bound on the norm of all chosen tensors together, at least 0.
        clip_value: bound on each element's magnitude instead, at least 0.
        groups: bounds on the norms of several sets of tensors, by globs over their names; the first
            that matches a name counts. Tensors in no group stay as they are, or are clipped
            together to `max_norm` if that is given too.
        agc: clip each unit of the gradients (what is at one index of the first axis: a row, a
            filter; the whole of a vector) to so many norms of the same unit of the weights, which
            lie in the same checkpoint under the same names. Only gradients are clipped so.
        eps: added to the norm: 1e-6 is torch's, 0 optax's. With `agc` the least norm that a unit of
            weights is taken to have: 1e-3 is the paper's. "auto" is torch's or the paper's.
        total_norm: the norm to clip by, if these tensors are only a part of all.
        per_tensor: clip each tensor by its own norm, the one that `measure` gives for it.
        nonfinite: what to do about NaN and Inf: "error" refuses, "zero" replaces them by 0,
            "keep" leaves their bits alone; with both the norm is that of the finite elements.
        in_place: replace the file at `path`.
        force: replace the file at `out`, if there is one.
        dry_run: write nothing; `out` may be left away.
        follow_links: of a directory, copy along what links to files outside of it name; without
            it such links are refused, as all but links to regular files always are.
        options: as for `measure`: norm_type, include, exclude, section, loss_scale (bounds are
            the trainer's, what is written stays scaled), raw_dtype, verify, ranks, replicated,
            join, threads, backend, device, device_memory, progress. All ranks are scaled by one
            coefficient, copies too; with `ranks="each"` each by that of its own norm.

    Returns:
        The coefficient, what changed, and the measurements before and after.

    Raises:
        RefusedError: non-finite gradients, or a norm that float64 cannot hold.
        UsageError: arguments that make no sense or do not fit the tensors found, p <= 0, an
            `out` that may not be written, tensors that share elements and not their transform, a
            link out of a directory that is to be copied along.
        InputError: as for `measure`; or `out` cannot be written.
        DeviceError: as for `measure`.

    Source of the equations: torch/nn/utils/clip_grad.py; for `agc` see `core.clipping.agc_coef`.
    """
    measuring = requested(options)
    request = ClipRequest(
        max_norm=_optional_number("max_norm", max_norm),
        clip_value=_optional_number("clip_value", clip_value),
        groups=_checked_groups(groups),
        agc=_optional_number("agc", agc),
        eps=_eps(eps, agc),
        total_norm=_optional_number("total_norm", total_norm),
        per_tensor=per_tensor,
        nonfinite=nonfinite,
    )
    # What is stored would have to be multiplied and the scale left alone, or the other way round.
    scaled = "`apply_scales` is for measuring: clipping changes stored elements, not their scales"
    require(not measuring.apply_scales, scaled)
    place = place_of(path)
    if place is None:
        raise UsageError("give a path, or a list of the paths of one dump's shards or ranks")
    if isinstance(place, Incomplete):
        raise place.error
    require(all((place,) if isinstance(place, str) else place), "the path is empty")
    places = "`out` and `in_place`"
    require(not (in_place and out is not None), f"{places} exclude each other")
    require(out is not None or in_place or dry_run, f"give one of {places}, or `dry_run`")
    with ExitStack() as stack:
        source = source_of(place, measuring)
        output = source.shown if in_place else None if out is None else os.fsdecode(out)
        target = None
        if output is not None:
            target = _target(source, output, in_place=in_place, force=force)
            stack.enter_context(closing(target))
        return _clip(measuring, source, request, target, dry_run=dry_run, follow_links=follow_links)


def _clip(
    measuring: MeasureRequest,
    source: Source,
    request: ClipRequest,
    target: Target | None,
    *,
    dry_run: bool,
    follow_links: bool,
) -> ClipOutcome:
    started = time.perf_counter()
    found = catalogues(source.place, measuring, request)
    for one in found:
        explicit = measuring.is_explicit
        refuse_unclippable(one.part, measuring.norm_type, request, explicit=explicit)
    files = [file for one in found for file in one.whole.files]
    place = None if target is None else place_for(source, target, files, follow_links=follow_links)
    sizes = [] if place is None else place.sizes(files)
    if place is not None and not (dry_run or place.target.is_source):
        require_space(place.target.shown, place.target.parent, sizes)
    with working(measuring) as executor:
        plannings = [Planning.of(one, measuring, request) for one in found]
        nbytes = [sum(spec.nbytes for spec in one.part.tensors) for one in found]
        shares = [*nbytes, *(one.nbytes for one in plannings)]
        shares += [] if dry_run else [sum(file.size for file in files), *nbytes]
        stages = split_progress(measuring.progress, shares)
        of_units, of_writing = stages[len(found) :], stages[2 * len(found) :]
        # All of them are planned before anything is written: one may have to be refused.
        planned = [
            planned_clip(planning, measuring, executor, stage, stage_of_units)
            for planning, stage, stage_of_units in zip(plannings, stages, of_units, strict=False)
        ]
        notes = [note for one in planned for note in one.notes]
        after: list[Measurement] = []
        changes = any(one.plan.changed for one in planned)
        if place is not None and (changes or not place.target.is_source):
            notes += place.target.notes()
            if not dry_run:
                after, said = write(measuring, request, planned, place, executor, of_writing)
                notes += said
        for stage in stages:
            stage.finish()
    return ClipOutcome(
        path=source.shown,
        output=None if target is None else target.shown,
        request=request,
        parts=tuple(
            Clipped(one.plan, one.before, new, one.catalogue.rank)
            for one, new in zip_longest(planned, after)
        ),
        dry_run=dry_run,
        notes=tuple(dict.fromkeys(notes)),
        elapsed_s=time.perf_counter() - started,
    )


def _target(source: Source, output: str, *, in_place: bool, force: bool) -> Target:
    try:
        if in_place:
            return target_in_place(source.shown, source.path)
        shown, path = source.shown, source.path
        return target_at(shown, path, output, force=force, chosen=source.chosen)
    except (OSError, ValueError) as error:
        # Loops of links, a current directory that is gone, characters that no path may have.
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise FileAccessError(output, f"cannot be written: {reason}") from error


def _optional_number(name: str, value: float | None) -> float | None:
    return None if value is None else number(name, value)


def _checked_groups(groups: Mapping[str, float] | None) -> tuple[tuple[str, float], ...]:
    """The groups in their order; UsageError for what is no table of globs."""
    if groups is None:
        return ()
    given: object = groups
    are_globs = isinstance(given, Mapping) and all(isinstance(glob, str) for glob in given)
    require(
        are_globs and bool(groups),
        f"`groups` must be a dict of globs and bounds, as {{'layers.*': 1.0}}, not {groups!r}",
    )
    return tuple((glob, number("groups", max_norm)) for glob, max_norm in groups.items())


def _eps(eps: float | Literal["auto"], agc: float | None) -> float:
    if eps != "auto":
        return number("eps", eps)
    return TORCH_EPS if agc is None else AGC_EPS
