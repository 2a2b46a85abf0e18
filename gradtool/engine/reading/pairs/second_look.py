"""Tensors that are read once more, where figures suggest what they do not prove."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
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
from gradtool.engine.numpy_backend.backend import NUMPY
from gradtool.engine.numpy_backend.fingerprints import Fingerprints, moved
from gradtool.engine.numpy_backend.grids import Grid
from gradtool.engine.reading.pairs.distances import Distances
from gradtool.engine.reading.pairs.gather import Sources, read_box, without_streams
from gradtool.engine.reading.pairs.plan import PairTask, StreamPairTask, pair_tasks
from gradtool.engine.reading.pairs.regions import Pair, sides_of
from gradtool.engine.reading.pairs.tasks import compare
from gradtool.engine.reading.pairs.transposition import transposed

MOST_NBYTES: Final = 256 << 20
"""Bytes that are read once more of all tensors together for a question: a second or so."""

MOST_TENSORS: Final = 256
"""Tensors that are read once more for a question, however small: opening takes time as well."""

MOST_LINES: Final = 1 << 20
"""Rows and columns of a matrix that are kept in mind."""

MOST_ELEMENTS: Final = 1 << 18
"""Elements of a vector that are: each takes as much as a row, and more to be sorted."""

_MOST_IN_VAIN: Final = 4
_BLOCK_NBYTES: Final = 1 << 20
_ENOUGH: Final = 1 << 16
"""Numbers by which the type of all others is known."""

_MOST_ITEMSIZE: Final = 8


class SecondReading:
    """See `core.comparing.second_look`; all is read in the calling thread.

    For each question so many bytes are read, and so many tensors. After some in a row that are not
    the other ones transposed, no more are tried.
    """

    def __init__(self, most_nbytes: int = MOST_NBYTES, most_tensors: int = MOST_TENSORS) -> None:
        self._nbytes = dict.fromkeys(("transposed", "moved", "vectors", "grids"), most_nbytes)
        self._tensors = dict.fromkeys(self._nbytes, most_tensors)
        self._in_vain = 0
        self._moved: dict[int, Moved | None] = {}
        self.unread: set[str] = set()

    def transposed(self, tensor: TensorDifference) -> Distance | None:
        """See `SecondLook`."""
        if self._in_vain >= _MOST_IN_VAIN or not self._allows(tensor, "transposed"):
            return None
        pair = Pair(tensor.a, transposed(tensor.b))
        by_file, streams = pair_tasks([pair])
        comparison = Distances()
        tasks: list[PairTask | StreamPairTask] = [*chain.from_iterable(by_file.values()), *streams]
        parts = [found for task in tasks for _, found in compare(task, comparison, NUMPY)]
        found = comparison.merged(parts)
        is_it = found.rel_l2 is not None and found.rel_l2 < 1.0
        self._in_vain = 0 if is_it else self._in_vain + 1
        return found

    def moved(self, tensor: TensorDifference) -> Moved | None:
        """See `SecondLook`."""
        if id(tensor) not in self._moved:
            self._moved[id(tensor)] = self._found_moved(tensor)
        return self._moved[id(tensor)]

    def _found_moved(self, tensor: TensorDifference) -> Moved | None:
        shape = tensor.a.shape
        is_vector = len(shape) == 1
        most = MOST_ELEMENTS if is_vector else MOST_LINES
        if not 1 <= len(shape) <= 2 or sum(shape) > most:
            return None
        if tensor.a.dtype.itemsize > _MOST_ITEMSIZE:
            return None
        if not self._allows(tensor, "vectors" if is_vector else "moved"):
            return None
        columns = 1 if is_vector else shape[1]
        sides = []
        for spec in (tensor.a, tensor.b):
            found = Fingerprints((shape[0], columns))
            for box, codes in _blocks(spec):
                found.add(codes.reshape(-1, 1) if is_vector else codes, *box.offsets)
            sides.append(found)
        return None if is_vector and not sides[0].are_known_apart else moved(*sides)

    def grids(self, tensor: TensorDifference) -> tuple[str | None, str | None] | None:
        """See `SecondLook`."""
        if {tensor.a.dtype.name, tensor.b.dtype.name} - {"F32", "F64"}:
            return None
        if not self._allows(tensor, "grids", 2 * _ENOUGH * _MOST_ITEMSIZE):
            return None
        names = []
        for spec in (tensor.a, tensor.b):
            grid, numel = Grid(), 0
            for box, codes in _blocks(spec):
                grid.add(codes)
                numel += box.numel
                # No number of many is on a grid by chance.
                if numel >= _ENOUGH or grid.name is None:
                    break
            names.append(grid.name)
        return names[0], names[1]

    def _allows(self, tensor: TensorDifference, question: str, most: int | None = None) -> bool:
        """Whether there is room for one more; what is scaled is not what is stored."""
        nbytes = tensor.a.nbytes + tensor.b.nbytes
        if tensor.a.scale is not None or tensor.b.scale is not None:
            return False
        parts = (*tensor.a.parts, *tensor.b.parts)
        if most is not None and all(part.stream is None for part in parts):
            nbytes = min(nbytes, most)
        if nbytes > self._nbytes[question] or not self._tensors[question]:
            self.unread.add(tensor.name)
            return False
        self._nbytes[question] -= nbytes
        self._tensors[question] -= 1
        return True


def _blocks(spec: TensorSpec) -> Iterator[tuple[Box, NDArray[Any]]]:
    """The words of a tensor in boxes of its shape, valid until the next one."""
    with ExitStack() as files, Sources() as sources:
        for side in sides_of(without_streams(spec, files)):
            strides = side.spec.strides or contiguous_strides(side.spec.shape)
            for box in _cut(side.box, strides, spec.dtype.itemsize):
                raw = BUFFERS.first.array(np.uint8, box.numel * spec.dtype.itemsize)
                read_box(sources, side.spec, side.within(box), raw)
                yield box, raw.view(f"u{spec.dtype.itemsize}").reshape(box.sizes)


def _cut(box: Box, strides: tuple[int, ...], itemsize: int) -> Iterator[Box]:
    """Boxes of `_BLOCK_NBYTES` at most, cut across the axes that are slowest as stored."""
    nbytes = box.numel * itemsize
    if nbytes <= _BLOCK_NBYTES:
        yield box
        return
    axis = max(range(len(strides)), key=lambda n: (box.sizes[n] > 1, strides[n]))
    size = box.sizes[axis]
    step = max(_BLOCK_NBYTES * size // nbytes, 1)
    for start in range(0, size, step):
        offsets, sizes = list(box.offsets), list(box.sizes)
        offsets[axis] += start
        sizes[axis] = min(step, size - start)
        yield from _cut(Box(tuple(offsets), tuple(sizes)), strides, itemsize)
