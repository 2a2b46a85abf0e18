"""Measuring a catalogue: its tasks are run, and their results become a `Measurement`."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

from gradtool.core.locations import Extent
from gradtool.core.measurement import Measurement, Summary, TensorMeasurement, summarize
from gradtool.core.tensors import Checkpoint, StoredChecksum
from gradtool.engine.overlaps.sharing import Overlaps, find_overlaps, find_sharing
from gradtool.engine.reading.assembly import assembled
from gradtool.engine.reading.plan import Task, plan
from gradtool.engine.reading.reductions import Part, Reduction, Statistics, folded
from gradtool.engine.reading.tasks import Target, run
from gradtool.engine.schedule import Runner

MOST_NOTES = 3
"""Notes of one kind that are given in full; the others are only counted."""


def measure(
    checkpoint: Checkpoint,
    runner: Runner,
    *,
    started: float | None = None,
    norm_type: float = 2.0,
    loss_scale: float = 1.0,
    verify: bool = False,
    overlaps: Overlaps | None = None,
) -> Measurement:
    """Measure every tensor of `checkpoint`, in one pass over their bytes.

    Bytes under a checksum that is verified are read a second time, right after the first.

    Args:
        checkpoint: the catalogue, already narrowed to what is wanted.
        runner: what the tasks are run with.
        started: `time.perf_counter()` when the work began; by default that of this call.
        norm_type: p.
        loss_scale: every element is divided by it.
        verify: check all stored CRCs of tensor data, not only those that the format's own
            reader checks.
        overlaps: those of the whole catalogue, if they were found before.

    Raises InputError where a file changed, shrank or fails its checksum.
    """
    started = time.perf_counter() if started is None else started
    stored = checkpoint.stored
    sharing = find_sharing(stored, find_overlaps(checkpoint) if overlaps is None else overlaps)
    checksums = _checksums_of(checkpoint, everything=verify)
    tasks = plan(stored, sharing, checksums, runner.backend.limits)
    covered = sum(checksum.covers.nbytes for checksum in checksums)
    runner.progress.begin(sum(spec.nbytes for spec in stored) + covered)
    stats = reduce_tasks(tasks, Statistics(norm_type), runner)
    runner.progress.finish()
    tensors = assembled(checkpoint.tensors, stored, sharing, stats, norm_type, loss_scale)
    return _measurement(checkpoint, tensors, norm_type, loss_scale, started, runner.backend.name)


def reduce_tasks(
    tasks: Iterable[Task], reduction: Reduction[Part], runner: Runner
) -> dict[Target, Part]:
    """Run all tasks; the result for each target, its parts merged in the order of the tasks."""
    parts_of: dict[Target, list[Part]] = {}
    work = partial(run, reduction=reduction, backend=runner.backend)
    for results in runner.results(tasks, work):
        for target, part in results:
            parts = parts_of.setdefault(target, [])
            parts.append(part)
            parts_of[target] = folded(parts, reduction)
    return {target: reduction.merged(parts) for target, parts in parts_of.items()}


def _checksums_of(checkpoint: Checkpoint, *, everything: bool) -> list[StoredChecksum]:
    """The checksums over bytes of the catalogue's tensors: all, or only the required ones."""
    checksums = [
        checksum for checksum in checkpoint.checksums if everything or checksum.is_required
    ]
    if not checksums:
        return []
    chosen: dict[str, list[int]] = {}
    for spec in checkpoint.stored:
        for extent in spec.extents:
            chosen.setdefault(extent.file.path, []).append(extent.offset)
    for offsets in chosen.values():
        offsets.sort()

    def is_chosen(covers: Extent) -> bool:
        offsets = chosen.get(covers.file.path, [])
        return bisect_left(offsets, covers.offset) < bisect_left(offsets, covers.end)

    return [checksum for checksum in checksums if is_chosen(checksum.covers)]


def _measurement(
    checkpoint: Checkpoint,
    tensors: tuple[TensorMeasurement, ...],
    norm_type: float,
    loss_scale: float,
    started: float,
    backend: str,
) -> Measurement:
    sections, total = _summaries(checkpoint, tensors, norm_type)
    return Measurement(
        path=checkpoint.path,
        format=checkpoint.format,
        files=tuple(file.path for file in checkpoint.files),
        nbytes=checkpoint.nbytes,
        norm_type=norm_type,
        backend=backend,
        loss_scale=loss_scale,
        tensors=tensors,
        sections=sections,
        total=total,
        skipped=checkpoint.skipped,
        notes=checkpoint.notes + tuple(_sharing_notes(tensors)),
        elapsed_s=time.perf_counter() - started,
        step=checkpoint.step,
        ranks=checkpoint.ranks,
        in_model_order=checkpoint.in_model_order,
    )


def _summaries(
    checkpoint: Checkpoint, tensors: tuple[TensorMeasurement, ...], norm_type: float
) -> tuple[tuple[Summary, ...], Summary | None]:
    """The summary of each section, and of all tensors where the sections are of one kind."""
    kinds = checkpoint.section_kinds
    names = list(dict.fromkeys(tensor.spec.section for tensor in tensors))
    sections = tuple(
        summarize(
            name,
            kinds.get(name),
            [tensor for tensor in tensors if tensor.spec.section == name],
            [item for item in checkpoint.skipped if item.section == name],
            norm_type,
        )
        for name in names
    )
    if len({kinds[name] for name in names if name in kinds}) > 1:
        return sections, None
    if len(sections) == 1 and not checkpoint.skipped:
        return sections, replace(sections[0], name="", kind=None)
    return sections, summarize(
        "", None, tensors, checkpoint.skipped, norm_type, lambda tensor: tensor.unique
    )


def _sharing_notes(tensors: Iterable[TensorMeasurement]) -> Iterator[str]:
    sharing = [
        tensor
        for tensor in tensors
        if tensor.unique is not None and tensor.unique.numel != tensor.stats.numel
    ]
    for tensor in sharing[:MOST_NOTES]:
        yield (
            f"{tensor.name!r} names {tensor.stats.numel} elements, of which "
            f"{tensor.unique.numel if tensor.unique else 0} are stored for it alone; "
            "totals count those"
        )
    if len(sharing) > MOST_NOTES:
        yield f"{len(sharing) - MOST_NOTES} more tensors share elements with others or repeat them"
