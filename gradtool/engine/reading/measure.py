"""Measuring a catalogue: its tasks are run, and their results become a `Measurement`."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TypeVar

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.locations import Extent
from gradtool.core.measurement import Measurement, TensorMeasurement
from gradtool.core.sections import OTHER
from gradtool.core.shapes.rows import Bands
from gradtool.core.tensors import StoredChecksum, TensorSpec
from gradtool.engine.backend import Backend
from gradtool.engine.numpy_backend.columns import Columns
from gradtool.engine.overlaps.sharing import Overlaps, find_overlaps, find_sharing
from gradtool.engine.reading.assembly.rows import Found, with_rows
from gradtool.engine.reading.assembly.tensors import assembled
from gradtool.engine.reading.assembly.whole import measurement_of
from gradtool.engine.reading.banding import bands_of_parts
from gradtool.engine.reading.digests import BlockDigests, Digests, DigestTask, digests_of
from gradtool.engine.reading.followers import Again
from gradtool.engine.reading.pairs.comparisons import ByteEquality, Comparison, Differing
from gradtool.engine.reading.pairs.plan import PairTask, StreamPairTask
from gradtool.engine.reading.pairs.regions import Pair
from gradtool.engine.reading.pairs.tasks import PairResults, compare
from gradtool.engine.reading.plan import Task, plan
from gradtool.engine.reading.reductions import Gathered, Part, Reduction, Statistics
from gradtool.engine.reading.replicas import (
    disagreement,
    pairs_of,
    with_those_of_ranks,
    without_those_of_ranks,
)
from gradtool.engine.reading.targets import NOTHING_APART, Apart, OfBands, Results, Target
from gradtool.engine.reading.tasks import run
from gradtool.engine.reading.unpacking import unpacked
from gradtool.engine.schedule import Runner

AnyTask = Task | Again

Other = TypeVar("Other")


def measure(
    checkpoint: Checkpoint,
    runner: Runner,
    *,
    started: float | None = None,
    norm_type: float = 2.0,
    loss_scale: float = 1.0,
    verify: bool = False,
    overlaps: Overlaps | None = None,
    digest: bool = False,
    bands: Mapping[str, Bands] = MappingProxyType({}),
) -> Measurement:
    """Measure every tensor of `checkpoint`, in one pass over their bytes.

    Bytes under a checksum that is verified, or of which there are copies, are read a second time,
    right after the first. All copies are compared, and those that differ measured too; of what may
    differ from rank to rank they are tensors of their own.

    Args:
        checkpoint: the catalogue, already narrowed to what is wanted.
        runner: what the tasks are run with.
        started: `time.perf_counter()` when the work began; by default that of this call.
        norm_type: p.
        loss_scale: every element is divided by it.
        verify: check all stored CRCs of tensor data, not only those that the format's own
            reader checks.
        overlaps: those of the whole catalogue, if they were found before.
        digest: make digests of all tensors too, see `TensorMeasurement`.
        bands: of which rows to tell more, by the names of their tensors.

    Raises InputError where a file changed, shrank or fails its checksum.
    """
    started = time.perf_counter() if started is None else started
    if verify or digest or checkpoint.replicas:
        checkpoint = unpacked(checkpoint)
    overlaps = find_overlaps(checkpoint) if overlaps is None else overlaps
    checksums, pairs = checksums_of(checkpoint, everything=verify), pairs_of(checkpoint)
    again = sum(checksum.covers.nbytes for checksum in checksums)
    again += sum(pair.nbytes for pair in pairs)
    specs = sorted(checkpoint.tensors, key=_is_other)  # elements count for what is in the total
    digested = specs if digest else ()
    again += sum(spec.nbytes for spec in digested)
    runner.progress.begin(sum(spec.nbytes for spec in specs) + again)
    measured = partial(
        _measured, overlaps=overlaps, norm_type=norm_type, loss_scale=loss_scale, runner=runner
    )
    tensors, found = measured(
        specs, checksums=checksums, pairs=pairs, digested=digested, bands=bands
    )
    differing = [number for number in sorted(found) if found[number].count]
    replicas = [checkpoint.replicas[number] for number in differing]
    stored = [one.as_tensor if one.may_differ else one.stored for one in replicas]
    own = {one.as_tensor.name for one in replicas if one.may_differ}
    copies, _ = measured(
        stored,
        digested=stored if digest else (),
        bands={name: bands[name] for name in bands.keys() & own},
    )
    runner.progress.finish()
    disagreements = tuple(
        disagreement(replica, pairs[number], found[number], copy.stats)
        for number, replica, copy in zip(differing, replicas, copies, strict=True)
        if not replica.may_differ
    )
    of_ranks = [
        (replica, copy)
        for replica, copy in zip(replicas, copies, strict=True)
        if replica.may_differ
    ]
    return measurement_of(
        without_those_of_ranks(checkpoint, of_ranks),
        with_those_of_ranks(_as_listed(checkpoint, tensors), of_ranks),
        disagreements,
        norm_type,
        loss_scale,
        backend=runner.backend.name,
        started=started,
    )


def _is_other(spec: TensorSpec) -> bool:
    return spec.section == OTHER


def _as_listed(
    checkpoint: Checkpoint, tensors: tuple[TensorMeasurement, ...]
) -> tuple[TensorMeasurement, ...]:
    """What was measured, in the order of the catalogue, whose `other` tensors come last here."""
    if not any(map(_is_other, checkpoint.tensors)):
        return tensors
    inner = iter(tensors)
    others = iter(tensors[sum(not _is_other(spec) for spec in checkpoint.tensors) :])
    return tuple(next(others if _is_other(spec) else inner) for spec in checkpoint.tensors)


def _measured(
    specs: Sequence[TensorSpec],
    *,
    overlaps: Overlaps,
    norm_type: float,
    loss_scale: float,
    runner: Runner,
    checksums: Iterable[StoredChecksum] = (),
    pairs: Sequence[Pair] = (),
    digested: Sequence[TensorSpec] = (),
    bands: Mapping[str, Bands] = MappingProxyType({}),
) -> tuple[tuple[TensorMeasurement, ...], dict[int, Differing]]:
    """What there is to say of tensors, and of each pair of which elements were compared."""
    stored = [part for spec in specs for part in spec.parts]
    sharing = find_sharing(stored, overlaps)
    tasks = plan(stored, sharing, checksums, runner.backend.limits, pairs, digested)
    apart = bands_of_parts(specs, stored, sharing, bands)
    stats, found, digests, of_bands = reduce_tasks(
        tasks, Statistics(norm_type), ByteEquality(), runner, Apart(norm_type, apart)
    )
    tensors = assembled(specs, stored, sharing, stats, norm_type, loss_scale)
    if bands:
        parts = Found(sharing, stats, apart, of_bands, norm_type, loss_scale)
        tensors = tuple(with_rows(tensors, bands, parts))
    if digested:
        numbered = enumerate(tensors)
        tensors = tuple(replace(tensor, digest=digests.of(n)) for n, tensor in numbered)
    return tensors, found


def reduce_tasks(
    tasks: Iterable[AnyTask],
    reduction: Reduction[Part],
    comparison: Comparison[Other],
    runner: Runner,
    apart: Apart = NOTHING_APART,
) -> tuple[dict[Target, Part], dict[int, Other], Digests, OfBands]:
    """Run all tasks; the results for each target and for each pair, the digests, those of bands.

    Those of parts are merged in the order of the tasks.
    """
    reduced: Gathered[Target, Part] = Gathered(reduction)
    compared: Gathered[int, Other] = Gathered(comparison)
    digests = Digests()
    work = partial(
        _run,
        reduction=reduction,
        comparison=comparison,
        backend=runner.backend,
        apart=apart,
    )
    whole = {
        target: Columns.empty(apart.norm_type, 0, len(bands))
        for target, bands in apart.bands.items()
    }
    for of_targets, of_pairs, of_blocks, of_bands in runner.results(tasks, work):
        reduced.add(of_targets)
        compared.add(of_pairs)
        digests.add(of_blocks)
        for target, found in of_bands.items():
            whole[target].add(found)
    return reduced.merged(), compared.merged(), digests, whole


def _run(
    task: AnyTask,
    reduction: Reduction[Part],
    comparison: Comparison[Other],
    backend: Backend,
    apart: Apart,
) -> tuple[Results[Part], PairResults[Other], BlockDigests, OfBands]:
    if isinstance(task, PairTask | StreamPairTask):
        return [], compare(task, comparison, backend), [], {}
    if isinstance(task, DigestTask):
        return [], [], digests_of(task), {}
    of_targets, of_bands = run(task, reduction, backend, apart)
    return of_targets, [], [], of_bands


def checksums_of(checkpoint: Checkpoint, *, everything: bool) -> list[StoredChecksum]:
    """The checksums over bytes of the catalogue's tensors: all, or only the required ones."""
    checksums = [
        checksum for checksum in checkpoint.checksums if everything or checksum.is_required
    ]
    if not checksums:
        return []
    chosen: dict[str, list[int]] = {}
    for spec in checkpoint.stored_anywhere:
        for extent in spec.extents:
            chosen.setdefault(extent.file.path, []).append(extent.offset)
    for offsets in chosen.values():
        offsets.sort()

    def is_chosen(covers: Extent) -> bool:
        offsets = chosen.get(covers.file.path, [])
        return bisect_left(offsets, covers.offset) < bisect_left(offsets, covers.end)

    return [checksum for checksum in checksums if is_chosen(checksum.covers)]
