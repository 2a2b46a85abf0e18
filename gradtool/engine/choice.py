"""Which backend computes: the one that is asked for, or the one that is done first."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from typing import Final

from gradtool.engine.backend import Backend
from gradtool.engine.numpy_backend import NUMPY
from gradtool.errors import DeviceError, UsageError

BACKENDS: Final = ("auto", "numpy", "torch")

BREAK_EVEN_NBYTES: Final = 64 << 30
"""Bytes of gradients from which on `auto` takes a GPU: importing torch and starting CUDA cost
seconds, in which a CPU has measured much. An estimate; `docs/gpu.md` says of what.
"""

LEAST_MEMORY: Final = 64 << 20
"""Bytes of device memory to work in, below which groups would be too small to be worth it."""

_DEVICE: Final = re.compile(r"cpu|cuda(:(0|[1-9][0-9]{0,3}))?")
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?)(i?)B?", re.IGNORECASE)
_POWERS: Final = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_GPU_FILES: Final = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Of which one is there where there is a GPU: NVIDIA's, AMD's, and what WSL makes of either."""


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """What was asked for.

    Attributes:
        backend: one of BACKENDS.
        devices: for torch: `cpu`, `cuda` for the current GPU, or `cuda:N`; none if not given.
        memory: bytes for torch to take on each of them; None for a quarter of what is free.
    """

    backend: str
    devices: tuple[str, ...]
    memory: int | None

    @classmethod
    def checked(cls, backend: str, device: object, memory: int | str | None) -> BackendChoice:
        """The choice; UsageError for what does not exist or does not go together."""
        if backend not in BACKENDS:
            raise UsageError(f"backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
        if backend == "numpy" and (device is not None or memory is not None):
            raise UsageError("device (--device) and device_memory are for the torch backend")
        devices = () if device is None else _devices(str(device))
        # Who names a device wants it used.
        chosen = "torch" if devices else backend
        return cls(chosen, devices, None if memory is None else _nbytes(memory))

    def for_bytes(self, nbytes: int, threads: int) -> Backend:
        """The backend for so many bytes of gradients, and threads that compute with it.

        Raises DeviceError where torch or its device was asked for and is not there.
        """
        if self.backend == "torch":
            return self._torch(threads)
        if self.backend == "numpy" or nbytes < BREAK_EVEN_NBYTES or not _may_have_gpu():
            return NUMPY
        try:
            return self._torch(threads)
        except DeviceError:
            return NUMPY

    def _torch(self, threads: int) -> Backend:
        if importlib.util.find_spec("torch") is None:
            raise DeviceError(
                "torch is not installed", hint="pip install 'gradtool[torch]', or --backend numpy"
            )
        try:
            from gradtool.engine.torch_devices import open_devices  # noqa: PLC0415 - takes seconds
        except (ImportError, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise DeviceError(
                f"torch cannot be imported: {reason}",
                hint="pip install --force-reinstall torch, or --backend numpy",
            ) from error
        return open_devices(self.devices or ("cuda",), self.memory, threads)


def _devices(text: str) -> tuple[str, ...]:
    names = tuple(text.replace(" ", "").split(","))
    for name in names:
        if not _DEVICE.fullmatch(name):
            hint = "it has no float64: --backend numpy reads the same memory"
            known = "cpu, cuda, cuda:N, or several of these with commas between"
            raise UsageError(
                f"device must be {known}, not {name!r}",
                hint=hint if name.startswith("mps") else None,
            )
    if len(set(names)) < len(names) or (len(names) > 1 and "cpu" in names):
        raise UsageError(f"devices must be different GPUs, or the CPU alone, not {text!r}")
    return names


def _nbytes(memory: int | str) -> int:
    """Bytes, as a number or as `512MB` (powers of 1000) or `4GiB` (of 1024)."""
    found = _SIZE.fullmatch(str(memory).strip())
    if found is None:
        raise UsageError(f"device_memory must be bytes such as 4GiB or 500MB, not {memory!r}")
    number, power, binary = found.groups()
    nbytes = int(float(number) * (1024 if binary else 1000) ** _POWERS[power.upper()])
    if nbytes < LEAST_MEMORY:
        raise UsageError(f"device_memory must be at least {LEAST_MEMORY >> 20}MiB, not {memory}")
    return nbytes


def _may_have_gpu() -> bool:
    """What can be known of it in no time: torch takes seconds to ask."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    has_torch = importlib.util.find_spec("torch") is not None
    return has_torch and not hidden and any(map(os.path.exists, _GPU_FILES))
