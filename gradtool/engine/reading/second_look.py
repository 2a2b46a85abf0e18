"""Tensors that are read once more, where figures suggest what they do not prove."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gradtool.core.comparing.difference import TensorDifference
from gradtool.core.comparing.distance import Distance
from gradtool.core.comparing.second_look import Moved
from gradtool.core.shapes.boxes import Box
from gradtool.core.shapes.strides import contiguous_strides
from gradtool.core.tensors import TensorSpec
from gradtool.engine.buffers import BUFFERS
from gradtool.engine.numpy_backend.fingerprints import Fingerprints, moved
from gradtool.engine.numpy_backend.grids import Grid
from gradtool.engine.reading.differences import transposed
from gradtool.engine.reading.pairs.distances import Distances
from gradtool.engine.reading.pairs.gather import Sources, read_box, without_streams
from gradtool.engine.reading.pairs.plan import pair_tasks
from gradtool.engine.reading.pairs.regions import Pair, Side, sides_of
from gradtool.engine.reading.pairs.tasks import compare

MOST_NBYTES: Final = 256 << 20
"""Bytes that are read once more of all tensors together: a second or so."""

MOST_LINES: Final = 1 << 20
"""Rows and columns of a matrix that are kept in mind."""

_BLOCK_NBYTES: Final = 1 << 20
_MOST_ITEMSIZE: Final = 8


class SecondReading:
    """See `core.comparing.second_look`; `MOST_NBYTES` are read in all, in the calling thread."""

    def __init__(self) -> None:
        self._left = MOST_NBYTES

    def transposed(self, tensor: TensorDifference) -> Distance | None:
        """See `SecondLook`."""
        if not self._allows(tensor):
            return None
        pair = Pair(tensor.a, transposed(tensor.b))
        by_file, streams = pair_tasks([pair])
        comparison = Distances()
        tasks = [*(task for tasks in by_file.values() for task in tasks), *streams]
        parts = [found for task in tasks for _, found in compare(task, comparison)]
        return comparison.merged(parts)

    def moved(self, tensor: TensorDifference) -> Moved | None:
        """See `SecondLook`."""
        shape = tensor.a.shape
        if len(shape) != 2 or sum(shape) > MOST_LINES or not self._allows(tensor):
            return None
        if tensor.a.dtype.itemsize > _MOST_ITEMSIZE:
            return None
        sides = []
        for spec in (tensor.a, tensor.b):
            found = Fingerprints((shape[0], shape[1]))
            for box, codes in _blocks(spec):
                found.add(codes, *box.offsets)
            sides.append(found)
        return moved(*sides)

    def grids(self, tensor: TensorDifference) -> tuple[str | None, str | None] | None:
        """See `SecondLook`."""
        if {tensor.a.dtype.name, tensor.b.dtype.name} - {"F32", "F64"}:
            return None
        if not self._allows(tensor):
            return None
        names = []
        for spec in (tensor.a, tensor.b):
            grid = Grid()
            for _, codes in _blocks(spec):
                grid.add(codes)
            names.append(grid.name)
        return names[0], names[1]

    def _allows(self, tensor: TensorDifference) -> bool:
        """Whether there is room for one more; what is scaled is not what is stored."""
        nbytes = tensor.a.nbytes + tensor.b.nbytes
        is_scaled = tensor.a.scale is not None or tensor.b.scale is not None
        if is_scaled or nbytes > self._left:
            return False
        self._left -= nbytes
        return True


def _blocks(spec: TensorSpec) -> Iterator[tuple[Box, NDArray[Any]]]:
    """The words of a tensor in boxes of its shape, valid until the next one."""
    with ExitStack() as files, Sources() as sources:
        for side in sides_of(without_streams(spec, files)):
            for box in _cut(side):
                raw = BUFFERS.first.array(np.uint8, box.numel * spec.dtype.itemsize)
                read_box(sources, side.spec, side.within(box), raw)
                yield box, raw.view(f"u{spec.dtype.itemsize}").reshape(box.sizes)


def _cut(side: Side) -> Iterator[Box]:
    """Boxes of a part, cut across the axis that is slowest in it."""
    sizes, spec = side.box.sizes, side.spec
    if not sizes:
        yield side.box
        return
    strides = contiguous_strides(spec.shape) if spec.strides is None else spec.strides
    axis = max(range(len(sizes)), key=lambda n: (sizes[n] > 1, strides[n], -n))
    inner = side.box.numel // sizes[axis] * spec.dtype.itemsize
    step = max(_BLOCK_NBYTES // inner, 1)
    for start in range(0, sizes[axis], step):
        offsets, part = list(side.box.offsets), list(sizes)
        offsets[axis] += start
        part[axis] = min(step, sizes[axis] - start)
        yield Box(tuple(offsets), tuple(part))
