"""The GPU backend: bytes to a device and back, in groups that fit there.

Each thread has a stream of its own and a buffer in pinned memory that files are read into, so
that while one thread's bytes are copied or computed with, the others read theirs. It waits for
the device once for a group, and again only if that needs a second look.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, NamedTuple, Self, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from gradtool.core.clipping import Transform
from gradtool.core.dtypes import DType
from gradtool.core.stats import TensorStats, merge
from gradtool.engine import torch_kernels
from gradtool.engine.backend import Bytes, Grain
from gradtool.engine.torch_kernels import ROW, rows_of
from gradtool.engine.torch_transforms import transformed
from gradtool.errors import DeviceError

TASK_NBYTES: Final = 32 << 20
"""Bytes of one task: half a millisecond of copying to a device, and ten times that of reading."""

GROUP_NUMEL: Final = 8 << 20
"""Elements that are on a device for one thread at a time, if there is room for so many."""

NBYTES_PER_ELEMENT: Final = 48
"""Bytes of device memory that an element of a group takes at most, with all that is made of it."""

Result = TypeVar("Result")


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

    @property
    def grain(self) -> Grain:
        """Groups for all threads that share a device, which fit into its memory together."""
        sharing = -(-self.threads // len(self.devices))
        fitting = self.memory // (sharing * NBYTES_PER_ELEMENT) // ROW * ROW
        numel = max(ROW, min(GROUP_NUMEL, fitting))
        return Grain(TASK_NBYTES, numel, numel // ROW, alignment=ROW)

    def room(self, nbytes: int) -> Bytes:
        """As `Backend` has it."""
        return self._lane().room(nbytes)

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
        lane = self._lane()

        def measure(group: Group) -> list[TensorStats]:
            room = lane.staged(raw[group.bytes], group.numel * dtype.itemsize)
            numels = [span.numel for span in group.spans]
            return torch_kernels.stats(room, dtype, numels, norm_type, big_endian=big_endian)

        parts: list[list[TensorStats]] = [[] for _ in counts]
        for group, results in lane.in_groups(Group.of(counts, dtype), self._most(dtype), measure):
            for span, found in zip(group.spans, results, strict=True):
                parts[span.segment].append(_counted_from(span.first, found))
        return [merge(of_one, norm_type) for of_one in parts]

    def apply(
        self, raw: NDArray[Any], dtype: DType, transform: Transform, *, big_endian: bool = False
    ) -> None:
        """As `Backend` has it; DeviceError where there is no memory for a single row."""
        lane = self._lane()

        def change(group: Group) -> None:
            part = raw[group.bytes]
            room = lane.staged(part, len(part))
            found = transformed(room, dtype, transform, big_endian=big_endian)
            torch.from_numpy(part).copy_(found)

        whole = Group.of([len(raw) // dtype.itemsize], dtype)
        lane.in_groups(whole, self._most(dtype), change)

    def _most(self, dtype: DType) -> int:
        """Elements of a group: what is made of complex ones takes as much as two numbers do."""
        return self.grain.block_numel // (1 if dtype.component is None else 2)

    def _lane(self) -> Lane:
        """The thread's own, on the device that is next when it is first asked for."""
        if self.devices not in _lanes.by_devices:
            device = self.devices[next(_turns) % len(self.devices)]
            _lanes.by_devices[self.devices] = Lane(torch.device(device))
        return _lanes.by_devices[self.devices]


def _counted_from(first: int, stats: TensorStats) -> TensorStats:
    if first == 0 or stats.first_nonfinite is None:
        return stats
    return replace(stats, first_nonfinite=first + stats.first_nonfinite)


class Span(NamedTuple):
    """Elements of one segment, from the start of a row on.

    `numel` of them: from its element `first` on, which is element `start` among those of all.
    """

    segment: int
    first: int
    start: int
    numel: int


class Group(NamedTuple):
    """Spans in consecutive rows."""

    spans: list[Span]
    dtype: DType

    @classmethod
    def of(cls, counts: Sequence[int], dtype: DType) -> Self:
        """Whole segments of so many elements each."""
        starts = itertools.accumulate((rows_of(count) * ROW for count in counts), initial=0)
        whole = enumerate(zip(starts, counts, strict=False))
        return cls([Span(index, 0, start, count) for index, (start, count) in whole], dtype)

    @property
    def numel(self) -> int:
        """Elements from the first one to the end of the last row."""
        last = self.spans[-1]
        return last.start + rows_of(last.numel) * ROW - self.spans[0].start

    @property
    def bytes(self) -> slice:
        """Where the elements are in the bytes of all segments."""
        last, itemsize = self.spans[-1], self.dtype.itemsize
        return slice(self.spans[0].start * itemsize, (last.start + last.numel) * itemsize)

    def halves(self) -> tuple[Group, Group]:
        """Two groups of what is more than a row."""
        if len(self.spans) > 1:
            middle = len(self.spans) // 2
            first, second = self.spans[:middle], self.spans[middle:]
        else:
            (span,) = self.spans
            half = rows_of(span.numel) // 2 * ROW
            first = [span._replace(numel=half)]
            second = [Span(span.segment, span.first + half, span.start + half, span.numel - half)]
        return Group(first, self.dtype), Group(second, self.dtype)


class Lane:
    """One thread's way to a device and back."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._module = torch.get_device_module(device)
        is_cpu = device.type == "cpu"
        self._stream = self._module.Stream() if is_cpu else self._module.Stream(device)
        self._is_pinned = not is_cpu
        self._room = self._new_room(0)
        self._most = GROUP_NUMEL

    def room(self, nbytes: int) -> Bytes:
        """Memory of the host that the device copies from and to without help."""
        if len(self._room) < nbytes:
            self._room = self._new_room(0)  # gives the smaller one back first
            self._room = self._new_room(nbytes)
        found: Bytes = self._room.numpy()[:nbytes]
        return found

    def _new_room(self, nbytes: int) -> Tensor:
        pinned = self._is_pinned and nbytes > 0
        return torch.empty(nbytes, dtype=torch.uint8, device="cpu", pin_memory=pinned)

    def staged(self, raw: Bytes, nbytes: int) -> Tensor:
        """A copy of `raw` on the device, with zeros after it to make `nbytes`."""
        # torch warns of arrays that it could not write to.
        source = torch.from_numpy(raw if raw.flags.writeable else raw.copy())
        staged = torch.empty(nbytes, dtype=torch.uint8, device=self._device)
        staged[: len(raw)].copy_(source, non_blocking=True)
        staged[len(raw) :].zero_()
        return staged

    def in_groups(
        self, whole: Group, most: int, work: Callable[[Group], Result]
    ) -> list[tuple[Group, Result]]:
        """What `work` makes of the whole group, or of halves of it and of halves of those.

        So far that each has at most `most` elements, and none needs more memory than there is.
        Groups that come later are no larger than what there was memory for.
        """
        found: list[tuple[Group, Result]] = []
        waiting = [whole]
        with self._module.stream(self._stream):
            while waiting:
                group = waiting.pop()
                if group.numel > max(min(self._most, most), ROW):
                    waiting.extend(reversed(group.halves()))
                    continue
                try:
                    found.append((group, work(group)))
                except RuntimeError as error:
                    if not _is_out_of_memory(error):
                        raise
                    if group.numel == ROW:
                        raise _exhausted(self._device) from None
                    self._most = group.numel // 2
                    waiting.append(group)
        return found


class _Lanes(threading.local):
    """A thread's lanes, by the devices of the backend."""

    def __init__(self) -> None:
        self.by_devices: dict[tuple[str, ...], Lane] = {}


_lanes: Final = _Lanes()
_turns: Final = itertools.count()


def _is_out_of_memory(error: RuntimeError) -> bool:
    # On a CPU torch has no type for it.
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _exhausted(device: torch.device) -> DeviceError:
    return DeviceError(
        f"{device} has no memory left, not for {ROW} elements",
        hint="free some of it, or compute with --backend numpy",
    )
