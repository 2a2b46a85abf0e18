"""Which backend computes: the one that is asked for, or else the one that finishes first."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from typing import Final

from gradtool.engine.backend import Backend
from gradtool.engine.memory import TORCH, require_memory
from gradtool.engine.numpy_backend.backend import NUMPY
from gradtool.errors import DeviceError, ResourceError, UsageError

BACKENDS: Final = ("auto", "numpy", "torch")

BREAK_EVEN_NBYTES: Final = 64 << 30
"""Bytes of gradients from which `auto` takes a GPU: importing torch and starting CUDA take seconds,
in which a CPU measures much. An estimate, which `docs/gpu.md` explains.
"""

LEAST_MEMORY: Final = 64 << 20
"""Least bytes of device memory to work in: with less, groups are too small to be worth it."""

_DEVICE: Final = re.compile(r"cpu|cuda(:(0|[1-9][0-9]{0,3}))?")
_SIZE: Final = re.compile(
    r"([0-9]{1,18}(?:\.[0-9]{1,18})?) ?(?:([KMGT])(i?))?B?", re.IGNORECASE | re.ASCII
)
_POWERS: Final = {"K": 1, "M": 2, "G": 3, "T": 4}
_NO_MPS: Final = "it has no float64: `backend='numpy'` reads the same memory"
_GPU_FILES: Final = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""One of these exists where there is a GPU: NVIDIA's, AMD's, or either's under WSL."""


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """The backend and the devices that the user asked for.

    Attributes:
        backend: one of BACKENDS.
        devices: for torch: `cpu`, `cuda` for the current GPU, or `cuda:N`; none if not given.
        memory: bytes for torch to take on each device; None for a quarter of what is free.
    """

    backend: str
    devices: tuple[str, ...]
    memory: int | None

    @classmethod
    def checked(cls, backend: object, device: object, memory: object) -> BackendChoice:
        """The choice; UsageError for what does not exist or does not go together."""
        if not isinstance(backend, str) or backend not in BACKENDS:
            raise UsageError(f"`backend` must be one of {', '.join(BACKENDS)}, not {backend!r}")
        if backend == "numpy" and (device is not None or memory is not None):
            given = "`device`" if memory is None else "`device_memory`"
            raise UsageError(f"{given} is for the torch backend")
        devices = () if device is None else _devices(device)
        # Who names a device wants it used.
        chosen = "torch" if devices else backend
        return cls(chosen, devices, None if memory is None else _nbytes(memory))

    def require(self, threads: int) -> None:
        """DeviceError where torch or its device was asked for and is not there."""
        if self.backend == "torch":
            self._torch(threads)

    def for_bytes(self, nbytes: int, threads: int) -> Backend:
        """The backend for `nbytes` bytes of gradients, and for `threads` threads to compute with.

        Raises DeviceError where torch or its device was asked for and is not there, or another
        ResourceError where there is too little memory to load torch.
        """
        if self.backend == "torch":
            return self._torch(threads)
        if self.backend == "numpy" or nbytes < BREAK_EVEN_NBYTES or not _may_have_gpu():
            return NUMPY
        try:
            return self._torch(threads)
        except ResourceError:
            return NUMPY

    def _torch(self, threads: int) -> Backend:
        if not _has_torch():
            raise DeviceError(
                "torch is not installed", hint="pip install torch, or `backend='numpy'`"
            )
        if "torch" not in sys.modules:
            require_memory(*TORCH)
        try:
            from gradtool.engine.torch_backend.devices import open_devices  # noqa: PLC0415 - takes seconds
        except Exception as error:  # an installation may be broken in any way
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise DeviceError(
                f"torch cannot be imported: {reason}",
                hint="pip install --force-reinstall torch, or `backend='numpy'`",
            ) from error
        return open_devices(self.devices or ("cuda",), self.memory, threads)


def _devices(device: object) -> tuple[str, ...]:
    """The names of the devices in a list, or in a text with commas between."""
    listed = device if isinstance(device, list | tuple) else str(device).split(",")
    names = tuple(str(name).strip() for name in listed)
    for name in names:
        if not _DEVICE.fullmatch(name):
            raise UsageError(
                f"`device` must be cpu, cuda or cuda:N, or GPUs with commas between, not {name!r}",
                hint=_NO_MPS if name.startswith("mps") else None,
            )
    if not names or len(set(names)) < len(names) or (len(names) > 1 and "cpu" in names):
        raise UsageError(f"`device` must be different GPUs, or the CPU alone, not {device!r}")
    return names


def _nbytes(memory: object) -> int:
    """Bytes, from a number or a text such as `512MB` (powers of 1000) or `4GiB` (of 1024)."""
    if isinstance(memory, int) and not abs(memory) < 1 << 60:
        raise UsageError("`device_memory` must be at most an exbibyte")
    match = _SIZE.fullmatch(str(memory).strip())
    if match is None:
        raise UsageError(f"`device_memory` must be bytes such as 4GiB or 500MB, not {memory!r}")
    number, power, binary = match.groups()
    nbytes = int(
        float(number) * (1024 if binary else 1000) ** _POWERS.get((power or "").upper(), 0)
    )
    if nbytes < LEAST_MEMORY:
        raise UsageError(f"`device_memory` must be at least {LEAST_MEMORY >> 20}MiB, not {memory}")
    return nbytes


def _has_torch() -> bool:
    try:
        return importlib.util.find_spec("torch") is not None
    except ValueError:  # something that nobody imported goes by its name
        return False


def _may_have_gpu() -> bool:
    """Whether there may be a GPU, from what is quick to check: asking torch takes seconds."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return _has_torch() and not hidden and any(map(os.path.exists, _GPU_FILES))
