"""Two catalogues compared: tensors that pair are read block beside block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.comparing.difference import TensorDifference
from gradtool.core.comparing.distance import NO_ELEMENTS, Distance
from gradtool.core.comparing.others import OtherDifference
from gradtool.core.comparing.tolerance import Tolerance
from gradtool.core.figures import byte_size, counted
from gradtool.core.shapes.strides import unravel
from gradtool.core.tensors import Skipped, StoredChecksum, TensorSpec
from gradtool.engine.reading.followers import ChecksumTask
from gradtool.engine.reading.measure import AnyTask, checksums_of, reduce_tasks
from gradtool.engine.reading.pairs.comparisons import ByteEquality, Differing
from gradtool.engine.reading.pairs.distances import Distances
from gradtool.engine.reading.pairs.plan import pair_tasks
from gradtool.engine.reading.pairs.regions import Pair
from gradtool.engine.reading.pairs.tasks import spooled_nbytes
from gradtool.engine.reading.reductions import Statistics
from gradtool.engine.reading.unpacking import opened
from gradtool.engine.schedule import Runner

Specs = tuple[TensorSpec, TensorSpec]


def differences(
    pairs: Sequence[Specs],
    checkpoints: tuple[Checkpoint, Checkpoint],
    runner: Runner,
    *,
    tolerances: Sequence[Tolerance],
    loss_scales: tuple[float, float],
    verify: bool = False,
) -> tuple[TensorDifference, ...]:
    """How far apart the tensors of each pair are; every byte of both is read once.

    Args:
        pairs: two tensors each, opened where they are packed.
        checkpoints: what they are of.
        runner: what the tasks are run with; progress is begun here.
        tolerances: what is allowed of each pair; those that share one are read in one go.
        loss_scales: what the elements of either side are divided by.
        verify: check all stored CRCs of tensor data of both.

    Raises InputError where a file changed, shrank or fails its checksum.
    """
    first, second = loss_scales
    shared = first if first == second else 1.0
    comparable = {n: Pair(a, b) for n, (a, b) in enumerate(pairs) if can_compare(a, b)}
    checksums = [
        checksum for one in checkpoints for checksum in checksums_of(one, everything=verify)
    ]
    nbytes = sum(pair.nbytes for pair in comparable.values())
    runner.progress.begin(nbytes + sum(checksum.covers.nbytes for checksum in checksums))
    groups: dict[Tolerance, list[int]] = {tolerance: [] for tolerance in tolerances}
    for n in comparable:
        groups[tolerances[n]].append(n)
    by_number: dict[int, Distance] = {}
    for tolerance, numbers in groups.items():
        # Elements are compared as they are stored where both are to be divided by one number.
        bound = None if tolerance.atol is None else tolerance.atol * shared
        divisors = (1.0, 1.0) if first == second else loss_scales
        comparison = Distances(replace(tolerance, atol=bound), divisors)
        tasks = _tasks(
            [comparable[n] for n in numbers], checksums, runner.backend.limits.pair_nbytes
        )
        _, found, *_ = reduce_tasks(tasks, Statistics(2.0), comparison, runner)
        by_number |= {numbers[n]: distance for n, distance in found.items()}
        checksums = []  # are checked once
    runner.progress.finish()
    return tuple(
        TensorDifference(
            a=a,
            b=b,
            distance=by_number.get(n, NO_ELEMENTS) if n in comparable else None,
            tolerance=tolerances[n],
            loss_scale=shared,
        )
        for n, (a, b) in enumerate(pairs)
    )


def spooled(tensors: Sequence[TensorDifference]) -> Iterator[str]:
    """A sentence on what is inflated into temporary files, as each side has an order of its own."""
    needed = [spooled_nbytes(Pair(one.a, one.b)) for one in tensors if can_compare(one.a, one.b)]
    sizes = [nbytes for nbytes in needed if nbytes]
    if sizes:
        inflated = counted(len(sizes), "tensor is", "tensors are")
        most = byte_size(max(sizes))
        yield f"{inflated} inflated into a temporary file of at most {most}: their orders differ"


def others_compared(
    pairs: Sequence[tuple[Skipped, Skipped]], runner: Runner
) -> tuple[OtherDifference, ...]:
    """Tensors that are not measured, compared bit by bit, where it is known how they are stored."""
    specs = [(a.stored, b.stored) for a, b in pairs]
    numbers, compared = [], []
    for n, (a, b) in enumerate(specs):
        if a is not None and b is not None and a.shape == b.shape and a.dtype == b.dtype:
            numbers.append(n)
            compared.append(Pair(opened(a), opened(b)))
    runner.progress.begin(sum(pair.nbytes for pair in compared))
    tasks = _tasks(compared, (), runner.backend.limits.pair_nbytes)
    _, found, *_ = reduce_tasks(tasks, Statistics(2.0), ByteEquality(), runner)
    runner.progress.finish()
    by_number = {n: found.get(i, Differing()) for i, n in enumerate(numbers)}
    return tuple(
        _other(first, a, b, by_number.get(n))
        for n, ((first, _), (a, b)) in enumerate(zip(pairs, specs, strict=True))
        if a is not None and b is not None
    )


def _other(
    first: Skipped, a: TensorSpec, b: TensorSpec, found: Differing | None
) -> OtherDifference:
    place = None if found is None or found.first is None else unravel(found.first, a.shape)
    count = None if found is None else found.count
    return OtherDifference(first.name, first.section, a, b, count, place)


def can_compare(a: TensorSpec, b: TensorSpec) -> bool:
    """Whether the elements of two tensors can be held against each other."""
    return a.shape == b.shape and a.dtype.kind == b.dtype.kind


def _tasks(
    pairs: Sequence[Pair], checksums: Sequence[StoredChecksum], block_nbytes: int
) -> Iterator[AnyTask]:
    by_file, streams = pair_tasks(pairs, block_nbytes)
    for tasks in by_file.values():
        yield from tasks
    yield from streams
    for checksum in checksums:
        yield ChecksumTask(checksum, checksum.covers.nbytes)
