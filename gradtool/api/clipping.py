"""Gradients clipped and written back."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Unpack

from gradtool.arguments import number, require
from gradtool.core.clip.outcome import ClipOutcome
from gradtool.core.clip.plan import (
    ClipPlan,
    ClipRequest,
    NonFinite,
    one_total,
    plan_clip,
    refuse_unclippable,
)
from gradtool.core.clipping import TORCH_EPS
from gradtool.core.locations import Location
from gradtool.core.measurement import Measurement
from gradtool.engine.overlaps.sharing import find_overlaps
from gradtool.engine.progress import Progress, split_progress
from gradtool.engine.reading.unpacking import unpacked
from gradtool.engine.threads import Threads
from gradtool.engine.writing.build import build, check_sources, files_to_write
from gradtool.engine.writing.rewrite import Rewrite, plan_rewrite
from gradtool.errors import FileAccessError
from gradtool.formats.layouts.sharded_index import is_index_name
from gradtool.request import (
    MeasureOptions,
    MeasureRequest,
    agreed,
    chosen,
    measured,
    opened,
    working,
)
from gradtool.storage.copying import Companions
from gradtool.storage.files import require_space
from gradtool.storage.target import Target, target_at, target_in_place
from gradtool.storage.workspace import Workspace, writing


def clip(
    path: str | bytes | os.PathLike[str],
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
        path: as for `measure`.
        out: a file for a file; for a directory or an index file a new directory, to which
            all other files are copied too.
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
            the trainer's, what is written stays scaled), raw_dtype, verify, threads, backend,
            device, device_memory, progress.

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
    path = os.fsdecode(path)
    require(bool(path), "the path is empty")
    output = path if in_place else None if out is None else os.fsdecode(out)
    places = "`out` and `in_place`"
    require(not (in_place and out is not None), f"{places} exclude each other")
    require(output is not None or dry_run, f"give one of {places}, or `dry_run`")
    with ExitStack() as stack:
        target = None
        if output is not None:
            target = _target(path, output, in_place=in_place, force=force)
            stack.enter_context(closing(target))
        return _clip(measuring, path, request, target, dry_run=dry_run, follow_links=follow_links)


def _clip(
    measuring: MeasureRequest,
    path: str,
    request: ClipRequest,
    target: Target | None,
    *,
    dry_run: bool,
    follow_links: bool,
) -> ClipOutcome:
    started = time.perf_counter()
    checkpoint = unpacked(opened(path, measuring))
    to_clip = chosen(checkpoint, measuring).without_others()
    refuse_unclippable(to_clip, measuring.norm_type, request, explicit=measuring.is_explicit)
    companions = None
    if target is not None and target.is_directory:
        companions = Companions(
            target.source, checkpoint.files, base=_directory(path), follow_links=follow_links
        )
    sizes = _sizes(checkpoint.files, companions)
    if target is not None and not (dry_run or target.is_source):
        require_space(target.shown, target.parent, sizes)
    with working(measuring) as executor:
        nbytes = sum(spec.nbytes for spec in to_clip.tensors)
        shares = [nbytes] if dry_run else [nbytes, checkpoint.nbytes, nbytes]
        stages = split_progress(measuring.progress, shares)
        overlaps = find_overlaps(checkpoint)
        before = agreed(measured(to_clip, measuring, executor, stages[0], started, overlaps))
        plan = plan_clip(before, request)
        rewrite = plan_rewrite(checkpoint, plan, overlaps)
        notes, after = before.notes, None
        if target is not None and (plan.changed or not target.is_source):
            notes = (*notes, *target.notes())
            if not dry_run:
                after, said = _write(measuring, rewrite, target, companions, executor, stages[1:])
                notes = (*notes, *said)
            notes = (*notes, *_underflow(plan, before, after))
        for stage in stages:
            stage.finish()
    return ClipOutcome(
        path=path,
        output=None if target is None else target.shown,
        request=request,
        plan=plan,
        before=before,
        after=after,
        dry_run=dry_run,
        notes=notes,
        elapsed_s=time.perf_counter() - started,
    )


def _underflow(plan: ClipPlan, before: Measurement, after: Measurement | None) -> tuple[str, ...]:
    """What deserves a warning: zeros that nobody asked for."""
    if after is None or one_total(after).finite_norm or not one_total(before).finite_norm:
        return ()
    asked = all(change.coef == 0.0 or change.bound == 0.0 for change in plan.transforms.values())
    return () if asked else ("every element is 0 now: what was asked for is too small for them",)


def _target(path: str, output: str, *, in_place: bool, force: bool) -> Target:
    source = _directory(path)
    try:
        if in_place:
            return target_in_place(path, source)
        return target_at(path, source, output, force=force)
    except (OSError, ValueError) as error:
        # Loops of links, a current directory that is gone, characters that no path may have.
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise FileAccessError(output, f"cannot be written: {reason}") from error


def _directory(path: str) -> str:
    """The directory that a path names, itself or by an index in it; a file as it is."""
    return (os.path.dirname(path) or os.curdir) if _is_index(path) else path


def _is_index(path: str) -> bool:
    return is_index_name(path) and not os.path.isdir(path)


def _sizes(written: Collection[Location], companions: Companions | None) -> list[int]:
    """Bytes of each file to write and, of a directory, to copy; refuses what is not copied."""
    copied = [] if companions is None else companions.sizes(written)
    return [*(file.size for file in written), *copied]


def _write(
    measuring: MeasureRequest,
    rewrite: Rewrite,
    target: Target,
    companions: Companions | None,
    executor: Executor,
    stages: Sequence[Progress],
) -> tuple[Measurement, tuple[str, ...]]:
    """Write, measure what was written, and only then put it in place; what is to be said of it."""
    checkpoint, files = rewrite.checkpoint, files_to_write(rewrite, companions)
    building, checking = stages
    with Workspace(target.path, target.shown, target.parent) as workspace, writing(target.shown):
        workspace.require_space(_sizes(files, companions))
        runner = measuring.runner(checkpoint, executor, building)
        built = build(rewrite, companions, workspace, runner)
        index = [os.path.basename(checkpoint.path)] if _is_index(checkpoint.path) else []
        with workspace.readable(built.name) as path, Threads(1) as syncing:
            synced = syncing.submit(built.sync)
            started = time.perf_counter()
            found = opened(os.path.join(path, *index), measuring)
            built.check_read(found.files, path)
            again = chosen(found, measuring).without_others()
            after = measured(again, measuring, executor, checking, started)
            synced.result()
        built.finish(workspace)
        check_sources(rewrite)
        notes = workspace.commit(built.name, overwrite=target.overwrite)
    moved = tuple(target.path + name.removeprefix(path) for name in after.files)
    return replace(after, path=target.shown, files=moved), notes


def _optional_number(name: str, value: float | None) -> float | None:
    return None if value is None else number(name, value)
