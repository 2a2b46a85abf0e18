"""Gradients clipped and written back."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from itertools import zip_longest
from typing import Unpack

from gradtool.api.clip_source import Source, catalogues, source_of
from gradtool.api.clip_writing import place_for, planned_clip, write
from gradtool.arguments import number, require
from gradtool.core.clip.outcome import ClipOutcome, Clipped
from gradtool.core.clip.plan import (
    ClipRequest,
    NonFinite,
    refuse_unclippable,
)
from gradtool.core.clipping import TORCH_EPS
from gradtool.core.measurement import Measurement
from gradtool.engine.progress import split_progress
from gradtool.errors import FileAccessError, UsageError
from gradtool.places import Incomplete, place_of
from gradtool.request import MeasureOptions, MeasureRequest, working
from gradtool.storage.files import require_space
from gradtool.storage.target import Target, target_at, target_in_place


def clip(
    path: str | bytes | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | bytes | os.PathLike[str] | None = None,
    *,
    max_norm: float | None = None,
    clip_value: float | None = None,
    eps: float = TORCH_EPS,
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
        eps: added to the norm: 1e-6 is torch's, 0 optax's.
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

    Source of the equations: torch/nn/utils/clip_grad.py.
    """
    request = ClipRequest(
        max_norm=_optional_number("max_norm", max_norm),
        clip_value=_optional_number("clip_value", clip_value),
        eps=number("eps", eps),
        total_norm=_optional_number("total_norm", total_norm),
        per_tensor=per_tensor,
        nonfinite=nonfinite,
    )
    measuring = MeasureRequest(**options)
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
    found = catalogues(source.place, measuring)
    for one in found:
        explicit = measuring.is_explicit
        refuse_unclippable(one.part, measuring.norm_type, request, explicit=explicit)
    files = [file for one in found for file in one.whole.files]
    place = None if target is None else place_for(source, target, files, follow_links=follow_links)
    sizes = [] if place is None else place.sizes(files)
    if place is not None and not (dry_run or place.target.is_source):
        require_space(place.target.shown, place.target.parent, sizes)
    nbytes = [sum(spec.nbytes for spec in one.part.tensors) for one in found]
    shares = nbytes if dry_run else [*nbytes, sum(file.size for file in files), *nbytes]
    with working(measuring) as executor:
        stages = split_progress(measuring.progress, shares)
        # All of them are planned before anything is written: one may have to be refused.
        planned = [
            planned_clip(one, request, measuring, executor, stage)
            for one, stage in zip(found, stages, strict=False)
        ]
        notes = [one.named(note) for one in planned for note in one.before.notes]
        after: list[Measurement] = []
        changes = any(one.plan.changed for one in planned)
        if place is not None and (changes or not place.target.is_source):
            notes += place.target.notes()
            if not dry_run:
                after, said = write(measuring, planned, place, executor, stages[len(found) :])
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
