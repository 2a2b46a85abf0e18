"""One thread's work on a device: a buffer to read into, a stream, and groups that fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final, NoReturn, TypeVar

import torch
from torch import Tensor

from gradtool.engine.backend import Bytes
from gradtool.engine.torch_backend.encodings import ROW
from gradtool.engine.torch_backend.groups import GROUP_NUMEL, Group
from gradtool.errors import DeviceError

SHORTAGE_S: Final = 0.05
"""Seconds before another try: other threads and other users of the device free memory meanwhile."""

ENOUGH_FITTED: Final = 16
"""Groups that have to fit, one after another, before larger ones are tried again."""

Result = TypeVar("Result")


class DeviceWorker:
    """What one thread uses to copy bytes to a device and to compute there."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_pinned = device.type != "cpu"
        self._buffer = self._new_buffer(0)
        self._most_numel = GROUP_NUMEL
        self._fitted = 0

    def buffer(self, nbytes: int) -> Bytes:
        """A buffer on the host, pinned where possible: the device copies that fastest."""
        if len(self._buffer) < nbytes:
            self._buffer = self._new_buffer(0)  # frees the smaller one first
            # torch pins memory in powers of two anyway.
            self._buffer = self._new_buffer(1 << (nbytes - 1).bit_length())
        buffer: Bytes = self._buffer.numpy()[:nbytes]
        return buffer

    def _new_buffer(self, nbytes: int) -> Tensor:
        if self._is_pinned and nbytes:
            try:
                return torch.empty(nbytes, dtype=torch.uint8, device="cpu", pin_memory=True)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    _raise_failure(self._device, error)
            # Systems may limit what can be pinned. Copies from other memory are slower.
            self._is_pinned = False
        return torch.empty(nbytes, dtype=torch.uint8, device="cpu")

    def staged(self, raw: Bytes, nbytes: int) -> Tensor:
        """A copy of `raw` on the device, with zeros after it up to `nbytes` bytes."""
        # torch warns of arrays that are not writeable; a copy of one does not outlive this call.
        is_kept = raw.flags.writeable
        source = torch.from_numpy(raw if is_kept else raw.copy())
        staged = torch.empty(nbytes, dtype=torch.uint8, device=self._device)
        staged[: len(raw)].copy_(source, non_blocking=is_kept)
        staged[len(raw) :].zero_()
        return staged

    def in_groups(
        self, whole: Group, most: int, work: Callable[[Group], Result]
    ) -> list[tuple[Group, Result]]:
        """The groups that `whole` is cut into, each with the result of `work`.

        A group is halved until it has at most `most` elements and there is memory for it. Later
        groups are cut to that size as well, until many have fitted.
        """
        results: list[tuple[Group, Result]] = []
        waiting = [whole]
        is_short = False
        with _stream_of_its_own(self._device):
            while waiting:
                if is_short:
                    time.sleep(SHORTAGE_S)
                    is_short = False
                group = waiting.pop()
                if group.numel > max(min(self._most_numel, most), ROW):
                    waiting.extend(reversed(group.halves()))
                    continue
                try:
                    results.append((group, work(group)))
                except RuntimeError as error:
                    if not _is_out_of_memory(error) or group.numel == ROW:
                        _raise_failure(self._device, error)
                    self._most_numel, self._fitted = group.numel // 2, 0
                    waiting.append(group)
                    # The error holds memory: wait only once it is gone.
                    is_short = True
                else:
                    self._note_fitting()
        return results

    def _note_fitting(self) -> None:
        self._fitted += 1
        if self._fitted == ENOUGH_FITTED:
            self._most_numel, self._fitted = min(2 * self._most_numel, GROUP_NUMEL), 0


@contextmanager
def _stream_of_its_own(device: torch.device) -> Iterator[None]:
    """Have the device work on a stream that no other thread uses meanwhile.

    Its work has to be done at the end. Streams are used again, since torch keeps freed memory for
    the stream that had it.
    """
    module = torch.get_device_module(device)
    is_cpu = device.type == "cpu"
    idle = _idle_streams.setdefault(device, [])
    with nullcontext() if is_cpu else module.device(device):
        try:
            stream = idle.pop()
        except IndexError:
            stream = module.Stream()
        try:
            with module.stream(stream):
                yield
        finally:
            idle.append(stream)


_idle_streams: Final[dict[torch.device, list[Any]]] = {}

_OUT_OF_MEMORY: Final = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "HIP error: out of memory",
)
"""Words of torch's errors when memory runs out on the CPU, or outside of its own allocator."""


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in _OUT_OF_MEMORY
    )


def _raise_failure(device: torch.device, error: RuntimeError) -> NoReturn:
    """Raise DeviceError if memory ran out or the device failed; else the error, which is a bug."""
    if _is_out_of_memory(error):
        problem, hint = f"has no memory left, not for {ROW} elements", "free some of it"
    elif str(error).startswith(("CUDA error", "HIP error")):
        problem, hint = f"failed: {first_line(error)}", "see nvidia-smi"
    else:
        raise error
    hint = f"{hint}, or compute with `backend='numpy'`"
    raise DeviceError(f"{device} {problem}", hint=hint) from error


def first_line(error: BaseException) -> str:
    """The first line of an error of torch: what follows is advice to developers."""
    return str(error).partition("\n")[0]
