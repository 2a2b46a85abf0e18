"""A thread's way to a device: a buffer to read into, a stream, and groups that fit there."""

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
"""Seconds until another try: other threads, and others who use the device, give memory back."""

ENOUGH_FITTED: Final = 16
"""Groups that have to fit, one after another, before larger ones are tried again."""

Result = TypeVar("Result")


class DeviceWorker:
    """One thread's way to a device and back."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_pinned = device.type != "cpu"
        self._room = self._new_room(0)
        self._most = GROUP_NUMEL
        self._fitted = 0

    def buffer(self, nbytes: int) -> Bytes:
        """Memory of the host that the device copies from and to without help."""
        if len(self._room) < nbytes:
            self._room = self._new_room(0)  # gives the smaller one back first
            # torch pins memory in powers of two anyway.
            self._room = self._new_room(1 << (nbytes - 1).bit_length())
        found: Bytes = self._room.numpy()[:nbytes]
        return found

    def _new_room(self, nbytes: int) -> Tensor:
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
        """A copy of `raw` on the device, with zeros after it to make `nbytes`."""
        # torch warns of arrays that it could not write to; a copy does not outlive this call.
        is_kept = raw.flags.writeable
        source = torch.from_numpy(raw if is_kept else raw.copy())
        staged = torch.empty(nbytes, dtype=torch.uint8, device=self._device)
        staged[: len(raw)].copy_(source, non_blocking=is_kept)
        staged[len(raw) :].zero_()
        return staged

    def in_groups(
        self, whole: Group, most: int, work: Callable[[Group], Result]
    ) -> list[tuple[Group, Result]]:
        """What `work` makes of the whole group, or of halves of it and of halves of those.

        So far that each has at most `most` elements, and none needs more memory than there is.
        Groups that come later are no larger either, until many have fitted.
        """
        found: list[tuple[Group, Result]] = []
        waiting = [whole]
        is_short = False
        with _stream_of_its_own(self._device):
            while waiting:
                if is_short:
                    time.sleep(SHORTAGE_S)
                    is_short = False
                group = waiting.pop()
                if group.numel > max(min(self._most, most), ROW):
                    waiting.extend(reversed(group.halves()))
                    continue
                try:
                    found.append((group, work(group)))
                except RuntimeError as error:
                    if not _is_out_of_memory(error) or group.numel == ROW:
                        _raise_failure(self._device, error)
                    self._most, self._fitted = group.numel // 2, 0
                    waiting.append(group)
                    # It holds what there was memory for: nothing waits before it is gone.
                    is_short = True
                else:
                    self._note_fitting()
        return found

    def _note_fitting(self) -> None:
        self._fitted += 1
        if self._fitted == ENOUGH_FITTED:
            self._most, self._fitted = min(2 * self._most, GROUP_NUMEL), 0


@contextmanager
def _stream_of_its_own(device: torch.device) -> Iterator[None]:
    """Work on the device, in a stream that nobody else uses meanwhile.

    All of it has to be done at the end. The next one takes the stream over: torch keeps memory
    that was freed for the stream that had it.
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
"""What torch says of memory of the CPU, and of what its own allocator has no part in."""


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in _OUT_OF_MEMORY
    )


def _raise_failure(device: torch.device, error: RuntimeError) -> NoReturn:
    """DeviceError for what a device may do; the error itself for what it would not do alone."""
    if _is_out_of_memory(error):
        problem, hint = f"has no memory left, not for {ROW} elements", "free some of it"
    elif str(error).startswith(("CUDA error", "HIP error")):
        problem, hint = f"failed: {first_line(error)}", "see nvidia-smi"
    else:
        raise error
    hint = f"{hint}, or compute with `backend='numpy'`"
    raise DeviceError(f"{device} {problem}", hint=hint) from error


def first_line(error: BaseException) -> str:
    """What an error of torch says, without its advice to developers."""
    return str(error).partition("\n")[0]
