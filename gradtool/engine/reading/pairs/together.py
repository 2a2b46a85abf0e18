"""Small pairs of a task, read and compared together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

import numpy as np

from gradtool.core.locations import Extent
from gradtool.core.tensors import TensorSpec
from gradtool.engine.backend import Bytes
from gradtool.engine.buffers import BUFFERS, Buffer
from gradtool.engine.reading.pairs.comparisons import ManyBlocks
from gradtool.engine.reading.pairs.gather import Sources
from gradtool.engine.reading.pairs.plan import PairBlock

MOST_NUMEL: Final = 4096
"""Elements of a small tensor: sums over so many are within the contract in whatever order."""


def runs(blocks: Iterable[PairBlock]) -> Iterator[tuple[bool, list[PairBlock]]]:
    """The blocks in their order, in runs of small tensors of one type and of all others."""

    def kind(block: PairBlock) -> tuple[bool, str]:
        is_small = _is_small(block)
        return is_small, block.region.first.spec.dtype.name if is_small else ""

    for (are_small, _), run in groupby(blocks, kind):
        found = list(run)
        yield are_small and len(found) > 1, found


def _is_small(block: PairBlock) -> bool:
    """Whether it is two whole tensors of one real type, small, and stored as they are read."""
    if block.numel > MOST_NUMEL:
        return False
    one, other = block.region.first.spec, block.region.second.spec
    return (
        block.numel == math.prod(block.region.shape) == one.numel == other.numel
        and one.dtype == other.dtype
        and one.dtype.component is None
        and _is_as_read(one)
        and _is_as_read(other)
    )


def _is_as_read(spec: TensorSpec) -> bool:
    plain = spec.strides is None and len(spec.extents) == 1
    return plain and not (spec.big_endian or spec.is_negated)


def read_together(blocks: list[PairBlock]) -> ManyBlocks:
    """Both sides of small blocks; what lies side by side in a file is read at once."""
    specs = [[side.spec for side in block.region.sides] for block in blocks]
    with Sources() as sources:
        return ManyBlocks(
            pairs=[block.region.pair for block in blocks],
            first=_read(sources, [one.extents[0] for one, _ in specs], BUFFERS.first),
            second=_read(sources, [other.extents[0] for _, other in specs], BUFFERS.second),
            dtype=specs[0][0].dtype,
            counts=[block.numel for block in blocks],
        )


def _read(sources: Sources, extents: list[Extent], buffer: Buffer) -> Bytes:
    raw: Bytes = buffer.array(np.uint8, sum(extent.nbytes for extent in extents))
    done = 0
    start = extents[0]
    nbytes = 0
    for extent in [*extents, None]:
        if extent is not None and nbytes and _follows(start, nbytes, extent):
            nbytes += extent.nbytes
            continue
        if nbytes:
            whole = Extent(start.file, start.offset, nbytes)
            sources.read_into([whole], 0, raw[done : done + nbytes].data)
            done += nbytes
        if extent is not None:
            start = extent
            nbytes = extent.nbytes
    return raw


def _follows(first: Extent, nbytes: int, extent: Extent) -> bool:
    return extent.file is first.file and extent.offset == first.offset + nbytes
