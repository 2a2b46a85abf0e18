"""The norm of each unit of tensors: of each row of a matrix, of each filter of a convolution.

They are found on the CPU whatever the backend, as most units are too few elements to go elsewhere.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from gradtool.core.clipping import unit_count
from gradtool.core.stats import TensorStats
from gradtool.core.tensors import TensorSpec
from gradtool.engine.backend import BLOCK_PIECES, Bytes
from gradtool.engine.numpy_backend.backend import NUMPY
from gradtool.engine.reading.digests import DigestTask, Span, blocks_of, digest_tasks
from gradtool.engine.reading.reductions import Gathered, Statistics
from gradtool.engine.schedule import Runner

NormOf: TypeAlias = Callable[[TensorStats], float]


@dataclass(frozen=True, slots=True)
class _Found:
    """Of one span: the norms of consecutive whole units from `first` on, and parts of others."""

    number: int
    first: int
    norms: array[float]
    parts: list[tuple[int, TensorStats]]


def unit_norms(
    specs: Mapping[str, TensorSpec],
    runner: Runner,
    norm_type: float,
    loss_scale: float = 1.0,
    *,
    finite: bool = True,
) -> dict[str, array[float]]:
    """The norm of each unit, by the name that its tensor has in `specs`, which have elements.

    It is that of the finite elements, or of all unless `finite`. Elements are divided by
    `loss_scale`. Memory is 8 bytes a unit.
    """
    tensors = [*specs.values()]
    by_file, streams = digest_tasks(tensors)
    tasks = itertools.chain(*by_file.values(), streams)
    norms = [array("d", bytes(8 * unit_count(spec.shape))) for spec in tensors]
    cut: Gathered[tuple[int, int], TensorStats] = Gathered(Statistics(norm_type))
    norm_of = partial(_norm, loss_scale=loss_scale, finite=finite)
    work = partial(_measure, norm_type=norm_type, norm_of=norm_of)
    for found in runner.results(tasks, work):
        for one in found:
            norms[one.number][one.first : one.first + len(one.norms)] = one.norms
            cut.add(((one.number, unit), stats) for unit, stats in one.parts)
    for (number, unit), stats in cut.merged().items():
        norms[number][unit] = norm_of(stats)
    return dict(zip(specs, norms, strict=True))


def _norm(stats: TensorStats, *, loss_scale: float, finite: bool) -> float:
    divided = stats.divided(loss_scale)
    return divided.finite_norm if finite else divided.norm


def _measure(task: DigestTask, norm_type: float, norm_of: NormOf) -> list[_Found]:
    return [_of_span(span, norm_type, norm_of) for span in task.spans]


def _of_span(span: Span, norm_type: float, norm_of: NormOf) -> _Found:
    spec = span.spec
    size = math.prod(spec.shape) // unit_count(spec.shape)
    found = _Found(span.number, -(-span.start // size), array("d"), [])
    position = span.start
    for raw in blocks_of(span):
        count = len(raw) // spec.dtype.itemsize
        for unit, numel, stats in _of_block(raw, spec, position, count, size, norm_type):
            if numel == size:
                found.norms.append(norm_of(stats))
            else:
                found.parts.append((unit, stats))
                if unit == found.first + len(found.norms):
                    found.norms.append(0.0)  # in its place, until its parts are merged
        position += count
    return found


def _of_block(
    raw: Bytes, spec: TensorSpec, position: int, count: int, size: int, norm_type: float
) -> Iterator[tuple[int, int, TensorStats]]:
    """Each unit of which a block holds elements, their number, and their statistics.

    The block has `count` elements of the tensor from C-order position `position` on.
    """
    itemsize, unit, stop = spec.dtype.itemsize, position // size, position + count
    borders = [position, *range((unit + 1) * size, stop, size), stop]
    for start in range(0, len(borders) - 1, BLOCK_PIECES):
        part = borders[start : start + BLOCK_PIECES + 1]
        counts = [after - before for before, after in itertools.pairwise(part)]
        data = raw[(part[0] - position) * itemsize : (part[-1] - position) * itemsize]
        results = NUMPY.stats(data, spec.dtype, counts, norm_type)
        for number, (numel, stats) in enumerate(zip(counts, results, strict=True), start):
            yield unit + number, numel, stats
