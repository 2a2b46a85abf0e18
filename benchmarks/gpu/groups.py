"""Tensors on a device, lying there in the groups that the GPU backend makes of a file's."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.harness import exact
from benchmarks.live.sets import SCALE
from gradtool.core.dtypes import DTYPES, DType
from gradtool.core.locations import Extent
from gradtool.core.tensors import TensorSpec
from gradtool.engine.backend import Backend
from gradtool.engine.overlaps.sharing import Overlaps, find_sharing
from gradtool.engine.reading.plan import ReadTask, plan
from gradtool.engine.torch_backend import groups as torch_groups
from gradtool.engine.torch_backend.encodings import ROW, TYPES, rows_of
from gradtool.request import MeasureRequest
from gradtool.storage.reader import LocalFile


class Group(NamedTuple):
    """Bytes of consecutive parts of tensors, each in whole rows, and elements of each."""

    raw: Tensor
    counts: list[int]


class OnDevice:
    """Normal gradients of these numbers of elements, and their exact norm.

    Each tensor starts at a row, as in the backend's buffers, so that `tensors`, the backend's
    `groups` and `whole`, which is one group of all, are views of the same memory.
    """

    def __init__(self, numels: Sequence[int], kind: torch.dtype, device: str) -> None:
        self.dtype = dtype_of(kind)
        self.nbytes = sum(numels) * kind.itemsize
        pieces = list(_pieces(numels, self.dtype, device))
        starts = [0, *itertools.accumulate(rows_of(numel) * ROW for numel in numels)]
        flat = torch.zeros(starts[-1], dtype=kind, device=device)
        self.tensors = [
            flat[start : start + numel] for start, numel in zip(starts, numels, strict=False)
        ]
        self.truth = exact.norm(_filled(self.tensors), 2)
        raw = flat.view(torch.uint8)
        self.whole = Group(raw, list(numels))
        self.groups = list(_cut(raw, pieces, kind.itemsize))


def dtype_of(kind: torch.dtype) -> DType:
    """What gradtool calls a type of torch's."""
    return next(DTYPES[name] for name, known in TYPES.items() if known is kind)


def backend_of(device: str) -> tuple[Backend, int]:
    """The backend on a device as a command without further options has it, and its threads."""
    request = MeasureRequest(backend="torch", device=device)
    return request.choice.for_bytes(0, request.workers), request.workers


def _filled(tensors: Sequence[Tensor]) -> Iterator[Tensor]:
    """The tensors, filled with normal values, which are given as they are on the CPU."""
    random = torch.Generator().manual_seed(0)
    for tensor in tensors:
        kind = torch.float64 if tensor.dtype is torch.float64 else torch.float32
        values = torch.empty(tensor.shape, dtype=kind).normal_(0.0, SCALE, generator=random)
        on_cpu = values.to(tensor.dtype)
        tensor.copy_(on_cpu)
        yield on_cpu


def _pieces(numels: Sequence[int], dtype: DType, device: str) -> Iterator[list[int]]:
    """The elements of each span in each group of a file that holds such tensors."""
    backend, _ = backend_of(device)
    specs = _catalogued(numels, dtype)
    for task in plan(specs, find_sharing(specs, Overlaps(())), [], backend.limits):
        if isinstance(task, ReadTask):
            for block in task.blocks:
                counts = [piece.nbytes // dtype.itemsize for piece in block.pieces]
                yield [span.numel for span in torch_groups.Group.of(counts, dtype).spans]


def _catalogued(numels: Sequence[int], dtype: DType) -> list[TensorSpec]:
    """One tensor after another in a file, of which nothing but the size is ever looked at."""
    sizes = [numel * dtype.itemsize for numel in numels]
    file = LocalFile("gradients", 0, 0, sum(sizes), 0, 0)
    offsets = itertools.accumulate(sizes, initial=0)
    return [
        TensorSpec(f"w{n}", dtype, (numel,), (Extent(file, offset, numel * dtype.itemsize),))
        for n, (numel, offset) in enumerate(zip(numels, offsets, strict=False))
    ]


def _cut(raw: Tensor, pieces: Iterable[list[int]], itemsize: int) -> Iterator[Group]:
    start = 0
    for counts in pieces:
        nbytes = sum(map(rows_of, counts)) * ROW * itemsize
        yield Group(raw[start : start + nbytes], counts)
        start += nbytes
