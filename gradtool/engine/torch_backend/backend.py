"""The GPU backend: bytes to a device and back, in groups that fit there.

Each thread works on a stream of its own and has a buffer in pinned memory that files are read
into, so that while one thread's bytes are copied or computed with, the others read theirs. It
waits for the device once for a group, and again only if that needs a second look.
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
from gradtool.core.dtypes import DType
from gradtool.core.stats import TensorStats, merge
from gradtool.engine.backend import BatchLimits, Bytes
from gradtool.engine.numpy_backend import kernels as numpy_kernels
from gradtool.engine.torch_backend import kernels as torch_kernels
from gradtool.engine.torch_backend.encodings import ROW, rows_of
from gradtool.engine.torch_backend.groups import GROUP_NUMEL, Group
from gradtool.engine.torch_backend.transforms import transformed
from gradtool.engine.torch_backend.workers import DeviceWorker

TASK_NBYTES: Final = 32 << 20
"""Bytes of one task: half a millisecond of copying to a device, and ten times that of reading."""

NBYTES_PER_NUMBER: Final = 48
"""Bytes of device memory that a number of a group takes at most, with all that is made of it."""


@dataclass(frozen=True, slots=True)
class TorchForeach:
    """torch on one device, or on several of a kind between which threads are divided.

    Attributes:
        devices: as torch names them, each with its index.
        memory: bytes that gradtool's tensors may take on each of them.
        threads: that compute at a time, at most.
    """

    devices: tuple[str, ...]
    memory: int
    threads: int
    name: ClassVar[str] = "torch"
    limits: ClassVar[BatchLimits] = BatchLimits(TASK_NBYTES, GROUP_NUMEL, GROUP_NUMEL // ROW)

    def buffer(self, nbytes: int) -> Bytes:
        """As `Backend` has it."""
        return self._worker().buffer(nbytes)

    def offsets(self, counts: Sequence[int], itemsize: int) -> list[int]:
        """As `Backend` has it: each segment in rows of its own."""
        starts = itertools.accumulate((rows_of(count) * ROW for count in counts), initial=0)
        *begins, end = (start * itemsize for start in starts)
        # The rest of the last row is made on the device.
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
        """As `Backend` has it; DeviceError where there is no memory for a single row."""
        worker = self._worker()
        _clear_between(raw, self.offsets(counts, dtype.itemsize), counts, dtype.itemsize)

        def measure(group: Group) -> list[TensorStats]:
            staged = worker.staged(raw[group.bytes], group.numel * dtype.itemsize)
            numels = [span.numel for span in group.spans]
            return torch_kernels.stats(staged, dtype, numels, norm_type, big_endian=big_endian)

        parts: list[list[TensorStats]] = [[] for _ in counts]
        for group, results in worker.in_groups(Group.of(counts, dtype), self._most(dtype), measure):
            for span, found in zip(group.spans, results, strict=True):
                parts[span.segment].append(found.moved(span.first))
        return [merge(of_one, norm_type) for of_one in parts]

    def nonfinite_positions(
        self, raw: NDArray[Any], dtype: DType, *, big_endian: bool = False
    ) -> NDArray[np.intp]:
        """As `Backend` has it: rarely asked for, and by NumPy, as the bytes are still there."""
        return numpy_kernels.nonfinite_positions(raw, dtype, big_endian=big_endian)

    def apply(
        self, raw: NDArray[Any], dtype: DType, transform: Transform, *, big_endian: bool = False
    ) -> None:
        """As `Backend` has it; DeviceError where there is no memory for a single row."""
        if len(raw) == 0:
            return
        worker = self._worker()

        def change(group: Group) -> None:
            part = raw[group.bytes]
            staged = worker.staged(part, len(part))
            found = transformed(staged, dtype, transform, big_endian=big_endian)
            torch.from_numpy(part).copy_(found)

        whole = Group.of([len(raw) // dtype.itemsize], dtype)
        worker.in_groups(whole, self._most(dtype), change)

    def _most(self, dtype: DType) -> int:
        """Elements of a group such that those of all threads of a device fit into its memory."""
        parts = 1 if dtype.component is None else 2
        return fitting_numbers(self.memory, self.threads, len(self.devices)) // parts

    def _worker(self) -> DeviceWorker:
        """The thread's own, on the device that is next when it is first asked for."""
        if self.devices not in _workers.by_devices:
            device = self.devices[next(_turns) % len(self.devices)]
            _workers.by_devices[self.devices] = DeviceWorker(torch.device(device))
        return _workers.by_devices[self.devices]


def _clear_between(
    raw: NDArray[Any], offsets: Sequence[int], counts: Sequence[int], itemsize: int
) -> None:
    """Fill what is left of each segment's last row with zeros, which count for nothing."""
    for start, count, following in zip(offsets, counts[:-1], offsets[1:], strict=False):
        raw[start + count * itemsize : following] = 0


def fitting_numbers(memory: int, threads: int, devices: int) -> int:
    """The numbers that each of so many threads can have on its device at a time."""
    sharing = -(-threads // devices)
    return memory // (sharing * NBYTES_PER_NUMBER) // ROW * ROW


class _Workers(threading.local):
    """A thread's workers, by the devices of the backend."""

    def __init__(self) -> None:
        self.by_devices: dict[tuple[str, ...], DeviceWorker] = {}


_workers: Final = _Workers()
_turns: Final = itertools.count()
