"""What gradtool does, as functions: the only place where names meet implementations."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Unpack

from gradtool.arrays.catalogue import catalogue
from gradtool.core.clip_plan import (
    ClipPlan,
    ClipRequest,
    NonFinite,
    one_total,
    plan_clip,
    refuse_unclippable,
)
from gradtool.core.clipping import TORCH_EPS
from gradtool.core.measurement import Measurement
from gradtool.core.outcome import ClipOutcome
from gradtool.engine.build import build, check_sources, files_to_write
from gradtool.engine.rewrite import Rewrite, plan_rewrite
from gradtool.engine.schedule import Advance, Progress
from gradtool.errors import FileAccessError
from gradtool.formats.sharded_index import is_index_name
from gradtool.job import Job, MeasureOptions, number, require
from gradtool.storage.target import Target, target_at, target_in_place
from gradtool.storage.workspace import Workspace, writing


def measure(
    source: str | bytes | os.PathLike[str] | Any,
    *,
    norm_type: float = 2.0,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    section: str | None = None,
    loss_scale: float | None = None,
    raw_dtype: str | None = None,
    verify: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Measure gradients, saved or in memory: norms, magnitudes, counts of non-finite values.

    Every norm is within 1e-12 of the exact one (for `0.1 <= |p| <= 64`), whatever the sizes,
    dtypes and magnitudes, and bit-identical for any number of threads. Memory depends on the
    number of tensors, not on their size.

        total_norm = ( sum over all elements |g|^p )^(1/p)

    Args:
        source: a path, of a file (safetensors, torch zip, npz, npy), a directory of them or an
            index file; or a `torch.nn.Module` or pairs of name and parameter, whose gradients
            are measured; or arrays (NumPy, torch, MLX, JAX and others) in nested dicts, lists
            and tuples. What is in memory must not change meanwhile.
        norm_type: p, any float but NaN; `math.inf` gives the largest magnitude.
        include: a glob or globs over tensor names, `*` matching dots too; empty for all.
        exclude: a glob or globs of names to leave out; they win.
        section: measure only the tensors of that section, "" for those under none.
        loss_scale: gradients were saved multiplied by it: divide all figures' elements. By
            default what `dump_gradients` noted in the file, and 1 in all others.
        raw_dtype: what NumPy's nameless `V2` elements are, "BF16" say.
        verify: also check the stored CRC-32 of tensor data.
        threads: workers; by default one for each core, at most MAX_THREADS.
        progress: called with (bytes done, bytes to do) from this thread.

    Returns:
        The figures of each tensor, each section and in total.

    Raises:
        UsageError: an argument is out of its range, or nothing matches the filters.
        InputError: the files cannot be read, understood or trusted, or hold no gradient.

    Source of the definitions: torch/nn/utils/clip_grad.py, `_get_total_norm`.
    """
    job = Job.checked(
        norm_type=norm_type,
        include=include,
        exclude=exclude,
        section=section,
        loss_scale=loss_scale,
        raw_dtype=raw_dtype,
        verify=verify,
        threads=threads,
        progress=progress,
    )
    owners: list[object] = []
    if isinstance(source, str | bytes | os.PathLike):
        checkpoint = job.open(os.fsdecode(source))
    else:
        require(raw_dtype is None and not verify, "raw_dtype and verify are for files")
        checkpoint, owners = catalogue(source)
    checkpoint = job.select(checkpoint)
    with job.executor() as executor:
        found = job.measure(checkpoint, executor, job.progress)
    del owners  # whose memory was read until here
    return found


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
        options: as for `measure`: norm_type, include, exclude, section, loss_scale (bounds are
            the trainer's, what is written stays scaled), raw_dtype, verify, threads, progress.

    Returns:
        The coefficient, what changed, and the measurements before and after.

    Raises:
        RefusedError: non-finite gradients, or a norm that float64 cannot hold.
        UsageError: arguments that make no sense or do not fit the tensors found, p <= 0, an
            `out` that may not be written, tensors that share elements and not their fate.
        InputError: as for `measure`; or `out` cannot be written.

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
    job = Job.checked(**options)
    path = os.fsdecode(path)
    require(bool(path), "the path is empty")
    output = path if in_place else None if out is None else os.fsdecode(out)
    places = "out (--output) and in_place (--in-place)"
    require(not (in_place and out is not None), f"{places} exclude each other")
    require(output is not None or dry_run, f"give one of {places}, or dry_run (--dry-run)")
    target = None if output is None else _target(path, output, in_place=in_place, force=force)
    checkpoint = job.open(path)
    chosen = job.select(checkpoint)
    refuse_unclippable(chosen, job.norm_type, request, explicit=job.is_explicit)
    with job.executor() as executor:
        chosen_nbytes = sum(spec.nbytes for spec in chosen.tensors)
        stages = _Stages(job.progress, chosen_nbytes, 0 if dry_run else checkpoint.nbytes)
        before = job.measure(chosen, executor, stages.measuring)
        plan = plan_clip(before, request)
        rewrite = plan_rewrite(checkpoint, plan)
        notes, after = before.notes, None
        if target is not None and (plan.changed or not in_place):
            notes = (*notes, *target.notes())
            after = None if dry_run else _write(job, rewrite, target, executor, stages)
            notes = (*notes, *_underflow(plan, before, after))
        stages.finish()
    return ClipOutcome(
        path=path,
        output=output,
        request=request,
        plan=plan,
        before=before,
        after=after,
        dry_run=dry_run,
        notes=notes,
        elapsed_s=time.perf_counter() - job.started,
    )


def _underflow(plan: ClipPlan, before: Measurement, after: Measurement | None) -> tuple[str, ...]:
    """What deserves a warning: zeros that nobody asked for."""
    if after is None or one_total(after).finite_norm or not one_total(before).finite_norm:
        return ()
    asked = all(change.coef == 0.0 or change.bound == 0.0 for change in plan.transforms.values())
    return () if asked else ("every element is 0 now: what was asked for is too small for them",)


def _target(path: str, output: str, *, in_place: bool, force: bool) -> Target:
    source = (os.path.dirname(path) or os.curdir) if _is_index(path) else path
    try:
        if in_place:
            return target_in_place(path, source)
        return target_at(path, source, output, force=force)
    except (OSError, ValueError) as error:
        # Loops of links, a current directory that is gone, characters that no path may have.
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise FileAccessError(output, f"cannot be written: {reason}") from error


def _is_index(path: str) -> bool:
    return is_index_name(path) and not os.path.isdir(path)


def _write(
    job: Job, rewrite: Rewrite, target: Target, executor: Executor, stages: _Stages
) -> Measurement:
    """Write, measure what was written, and only then put it in place."""
    checkpoint = rewrite.checkpoint
    to_write = sum(file.size for file in files_to_write(rewrite, target))
    with Workspace(target.path, target.shown) as workspace, writing(target.shown):
        built = build(
            rewrite,
            target,
            workspace,
            executor=executor,
            window=job.window,
            advance=Advance(stages.writing, to_write),
        )
        with ThreadPoolExecutor(1) as syncing:
            synced = syncing.submit(built.sync)
            name = os.path.basename(checkpoint.path)
            where = os.path.join(built.path, name) if _is_index(checkpoint.path) else built.path
            after = job.measure(job.select(job.open(where)), executor, stages.checking)
            synced.result()
        built.finish(target)
        check_sources(rewrite)
        workspace.commit(built.path, overwrite=target.overwrite)
    moved = tuple(target.path + name.removeprefix(built.path) for name in after.files)
    return replace(after, path=target.shown, files=moved)


def _optional_number(name: str, value: float | None) -> float | None:
    return None if value is None else number(name, value)


class _Stages:
    """Progress of measuring, writing and measuring what was written, as one piece of work."""

    def __init__(self, progress: Progress | None, measured: int, written: int) -> None:
        self._progress = progress
        self._measured = measured
        self._written = written

    def measuring(self, done: int, todo: int) -> None:
        """So much of the first stage is done."""
        self._report(0, self._measured, done, todo)

    def writing(self, done: int, todo: int) -> None:
        """So much of the second."""
        self._report(self._measured, self._written, done, todo)

    def checking(self, done: int, todo: int) -> None:
        """So much of the last."""
        self._report(self._measured + self._written, self._measured, done, todo)

    def finish(self) -> None:
        """All of it, whatever was left out."""
        last = self.checking if self._written else self.measuring
        last(1, 1)

    def _report(self, before: int, share: int, done: int, todo: int) -> None:
        if self._progress is not None:
            checked = self._measured if self._written else 0
            total = self._measured + self._written + checked
            self._progress(before + share * done // max(todo, 1), total)
