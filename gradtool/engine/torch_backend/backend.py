"""The GPU backend as a `Backend`: bytes go to a device and back, in groups that fit into it.

Each thread works on a stream of its own and reads files into a pinned buffer of its own, so that
while one thread's bytes are copied or computed with, the others read theirs. A thread waits for the
device once for each group, and again only for a group that needs a second pass.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray

from gradtool.core.clipping import Transform
from gradtool.core.comparing.distance import Distance
from gradtool.core.comparing.tolerance import Tolerance
from gradtool.core.dtypes import DType
from gradtool.core.stats import TensorStats, merge
from gradtool.engine.backend import BatchLimits, Bytes, Coefs
from gradtool.engine.numpy_backend import kernels as numpy_kernels
from gradtool.engine.numpy_backend.many_distances import distances_of_many
from gradtool.engine.operands import Operand, Walk
from gradtool.engine.torch_backend import comparing
from gradtool.engine.torch_backend import kernels as torch_kernels
from gradtool.engine.torch_backend.encodings import ROW, rows_of
from gradtool.engine.torch_backend.groups import GROUP_NUMEL, Group
from gradtool.engine.torch_backend.transforms import transformed
from gradtool.engine.torch_backend.workers import DeviceWorker

TASK_NBYTES: Final = 32 << 20
"""Bytes of one task: half a millisecond of copying to a device, and ten times that of reading."""

NBYTES_PER_NUMBER: Final = 48
"""Most bytes of device memory that one number of a group takes, intermediate results included."""

NBYTES_PER_PAIR: Final = 160
"""The same of two numbers that are compared."""


@dataclass(frozen=True, slots=True)
class TorchForeach:
    """torch on one device, or on several of a kind between which threads are divided.

    Attributes:
        devices: as torch names them, each with its index.
        memory: bytes that gradtool's tensors may take on each device.
        threads: how many threads compute at a time, at most.
    """

    devices: tuple[str, ...]
    memory: int
    threads: int
    name: ClassVar[str] = "torch"
    limits: ClassVar[BatchLimits] = BatchLimits(
        TASK_NBYTES, GROUP_NUMEL, GROUP_NUMEL // ROW, TASK_NBYTES
    )

    def buffer(self, nbytes: int) -> Bytes:
        """See `Backend`."""
        return self._worker().buffer(nbytes)

    def offsets(self, counts: Sequence[int], itemsize: int) -> list[int]:
        """See `Backend`; each segment starts a row of its own."""
        starts = itertools.accumulate((rows_of(count) * ROW for count in counts), initial=0)
        *begins, end = (start * itemsize for start in starts)
        # The last row is filled up on the device.
        return [*begins, end - -counts[-1] % ROW * itemsize]

    def stats(
        self,
        raw: NDArray[Any],
        dtype: DType,
        counts: Sequence[int],
        norm_type: float,
        *,
        big_endian: bool = False,
    ) -> list[TensorStats]:
        """See `Backend`; DeviceError where there is no memory for a single row."""
        worker = self._worker()
        _clear_gaps(raw, self.offsets(counts, dtype.itemsize), counts, dtype.itemsize)

        def measure(group: Group) -> list[TensorStats]:
            staged = worker.staged(raw[group.bytes], group.numel * dtype.itemsize)
            numels = [span.numel for span in group.spans]
            return torch_kernels.stats(staged, dtype, numels, norm_type, big_endian=big_endian)

        parts_of: list[list[TensorStats]] = [[] for _ in counts]
        whole, most = Group.of(counts, dtype), self._group_numel(dtype)
        for group, results in worker.in_groups(whole, most, measure):
            for span, part in zip(group.spans, results, strict=True):
                parts_of[span.segment].append(part.moved(span.first))
        return [merge(parts, norm_type) for parts in parts_of]

    def nonfinite_positions(
        self, raw: NDArray[Any], dtype: DType, *, big_endian: bool = False
    ) -> NDArray[np.intp]:
        """See `Backend`; in NumPy, as it is rarely called and the bytes are still on the host."""
        return numpy_kernels.nonfinite_positions(raw, dtype, big_endian=big_endian)

    def apply(
        self,
        raw: NDArray[Any],
        dtype: DType,
        transform: Transform,
        *,
        big_endian: bool = False,
        coefs: Coefs | None = None,
    ) -> None:
        """See `Backend`; DeviceError where there is no memory for a single row."""
        if len(raw) == 0:
            return
        worker = self._worker()

        def change(group: Group) -> None:
            part = raw[group.bytes]
            staged = worker.staged(part, len(part))
            factors = None
            if coefs is not None:
                start = group.spans[0].start
                own = np.ascontiguousarray(coefs[start : start + len(part) // dtype.itemsize])
                factors = torch.from_numpy(own).to(staged.device)
            result = transformed(staged, dtype, transform, big_endian=big_endian, coefs=factors)
            torch.from_numpy(part).copy_(result)

        whole = Group.of([len(raw) // dtype.itemsize], dtype)
        worker.in_groups(whole, self._group_numel(dtype), change)

    def distance(self, a: Operand, b: Operand, walk: Walk, tolerance: Tolerance) -> Distance:
        """See `Backend`; DeviceError where there is no memory for a single row."""
        most = self._group_numel(a.dtype, NBYTES_PER_PAIR)
        return comparing.distance(a, b, walk, tolerance, self._worker(), most)

    def distances(
        self, a: Operand, b: Operand, counts: Sequence[int], tolerance: Tolerance
    ) -> list[Distance]:
        """See `Backend`; in NumPy: what becomes of each in Python takes longer than the sums."""
        return distances_of_many(a, b, counts, tolerance)

    def _group_numel(self, dtype: DType, nbytes: int = NBYTES_PER_NUMBER) -> int:
        """Most elements of a group, such that the groups of all threads fit into a device."""
        parts = 1 if dtype.component is None else 2
        return fitting_numbers(self.memory, self.threads, len(self.devices), nbytes) // parts

    def _worker(self) -> DeviceWorker:
        """The thread's own worker; the first call gives it the device whose turn it is."""
        if self.devices not in _workers.by_devices:
            device = self.devices[next(_turns) % len(self.devices)]
            _workers.by_devices[self.devices] = DeviceWorker(torch.device(device))
        return _workers.by_devices[self.devices]


def _clear_gaps(
    raw: NDArray[Any], offsets: Sequence[int], counts: Sequence[int], itemsize: int
) -> None:
    """Fill up the last row of each segment with zeros, which add nothing to its statistics."""
    for start, count, following in zip(offsets, counts[:-1], offsets[1:], strict=False):
        raw[start + count * itemsize : following] = 0


def fitting_numbers(
    memory: int, threads: int, devices: int, nbytes: int = NBYTES_PER_NUMBER
) -> int:
    """How many numbers of `nbytes` each thread can have on its device at a time, in whole rows."""
    sharing = -(-threads // devices)
    return memory // (sharing * nbytes) // ROW * ROW


class _Workers(threading.local):
    """Each thread's own workers, by the devices of the backend."""

    def __init__(self) -> None:
        self.by_devices: dict[tuple[str, ...], DeviceWorker] = {}


_workers: Final = _Workers()
_turns: Final = itertools.count()
