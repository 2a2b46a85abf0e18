"""Finding the devices that were asked for, and the memory to use on them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Final

import torch

from gradtool.engine.backend import Backend
from gradtool.engine.torch_backend.backend import (
    NBYTES_PER_PAIR,
    TorchForeach,
    fitting_numbers,
)
from gradtool.engine.torch_backend.groups import SPAN_NUMEL
from gradtool.engine.torch_backend.workers import first_line
from gradtool.errors import DeviceError, UsageError

_CPU_MEMORY: Final = 64 << 20
"""Default bytes for each thread on a CPU: more than its caches hold."""

_FREE_SHARE: Final = 4
"""By default one part in so many of a device's free memory is used."""


def open_devices(names: Sequence[str], memory: int | None, threads: int) -> Backend:
    """Start the devices of these names; the backend that computes on them.

    Raises:
        DeviceError: torch has no CUDA, or does not see such a device, or cannot start it, or
            there is too little memory on it.
        UsageError: two names of one device, or less memory than so many threads need.
    """
    workers = threads + 1  # the one that hands out the work computes now and then, too
    if list(names) == ["cpu"]:
        backend = TorchForeach(("cpu",), memory or workers * _CPU_MEMORY, workers)
    else:
        devices = _indexed(names)
        free = min(_free_memory(device) for device in devices)
        backend = TorchForeach(devices, memory or free // _FREE_SHARE, workers)
    fitting = fitting_numbers(backend.memory, workers, len(backend.devices), NBYTES_PER_PAIR)
    if fitting < SPAN_NUMEL:
        problem = f"{backend.memory >> 20} MiB of device memory are too few for {threads} threads"
        if memory is None:
            raise DeviceError(f"{problem}, a quarter of what is free", hint="give `device_memory`")
        raise UsageError(problem, hint="give more, or fewer `threads`")
    return backend


def _indexed(names: Sequence[str]) -> tuple[str, ...]:
    """The same devices, each named with its index: `cuda:N`."""
    _refuse_without_cuda()
    try:
        devices = tuple(f"cuda:{_index(name)}" for name in names)
    except RuntimeError as error:
        raise _unusable("cuda", error) from error
    if len(set(devices)) < len(devices):
        raise UsageError(f"devices {', '.join(names)} are one: {devices[0]}")
    return devices


def _refuse_without_cuda() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return
    if torch.version.cuda is None and torch.version.hip is None:
        raise DeviceError(
            f"torch {torch.__version__} is a build for CPUs only",
            hint="pip install --force-reinstall torch (a build for CUDA), or `device='cpu'`",
        )
    why = "".join(f": {str(warning.message).partition(chr(10))[0]}" for warning in caught[:1])
    raise DeviceError(
        f"torch {torch.__version__} finds no CUDA device{why}",
        hint="see nvidia-smi and CUDA_VISIBLE_DEVICES, or give `device='cpu'`",
    )


def _index(name: str) -> int:
    _, _, digits = name.partition(":")
    count = torch.cuda.device_count()
    index = int(digits) if digits else torch.cuda.current_device()
    if index >= count:
        devices = ", ".join(f"cuda:{i}" for i in range(count)) or "none"
        raise DeviceError(f"there is no {name}", hint=f"torch finds {devices}")
    return index


def _free_memory(device: str) -> int:
    """Start a device; the bytes that are free on it."""
    try:
        torch.zeros(1, device=device)
        free, _ = torch.cuda.mem_get_info(device)
    except RuntimeError as error:
        raise _unusable(device, error) from error
    return free


def _unusable(device: str, error: RuntimeError) -> DeviceError:
    hint = "see nvidia-smi, or compute with `backend='numpy'`"
    return DeviceError(f"{device} cannot be used: {first_line(error)}", hint=hint)
