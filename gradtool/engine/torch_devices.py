"""Finding the devices that were asked for, and room on them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

import torch

from gradtool.engine.backend import Backend
from gradtool.engine.torch_foreach import TorchForeach
from gradtool.errors import DeviceError, UsageError

_CPU_MEMORY: Final = 256 << 20
"""Bytes to work in on a CPU, unless told otherwise: more than its caches hold anyway."""

_FREE_SHARE: Final = 4
"""Of the memory that is free one part in so many is taken, unless told otherwise."""


def open_devices(names: Sequence[str], memory: int | None, threads: int) -> Backend:
    """The backend on the devices of these names, which are started if they are not yet.

    Raises:
        DeviceError: torch has no CUDA, or does not see such a device, or cannot start it.
        UsageError: two names of one device.
    """
    # The thread that hands out the work computes now and then, too.
    workers = threads + 1
    if list(names) == ["cpu"]:
        return TorchForeach(("cpu",), memory or _CPU_MEMORY, workers)
    _refuse_without_cuda()
    devices = tuple(f"cuda:{_index(name)}" for name in names)
    if len(set(devices)) < len(devices):
        raise UsageError(f"devices {', '.join(names)} are one: {devices[0]}")
    free = min(_started(device) for device in devices)
    return TorchForeach(devices, memory or free // _FREE_SHARE, workers)


def _refuse_without_cuda() -> None:
    if torch.cuda.is_available():
        return
    if torch.version.cuda is None and torch.version.hip is None:
        raise DeviceError(
            f"torch {torch.__version__} is a build for CPUs only",
            hint="pip install --force-reinstall torch (on Linux a build for CUDA), or --device cpu",
        )
    raise DeviceError(
        f"torch {torch.__version__} finds no CUDA device",
        hint="see nvidia-smi and CUDA_VISIBLE_DEVICES, or give --device cpu",
    )


def _index(name: str) -> int:
    _, _, digits = name.partition(":")
    count = torch.cuda.device_count()
    index = int(digits) if digits else torch.cuda.current_device()
    if index >= count:
        devices = ", ".join(f"cuda:{i}" for i in range(count))
        raise DeviceError(f"there is no {name}", hint=f"torch finds {devices}")
    return index


def _started(device: str) -> int:
    """Bytes that are free on a device, once it runs."""
    try:
        _start(device)
        free, _ = torch.cuda.mem_get_info(device)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise DeviceError(f"{device} cannot be used: {reason}", hint="see nvidia-smi") from error
    return free


@cache
def _start(device: str) -> None:
    torch.zeros(1, device=device)
