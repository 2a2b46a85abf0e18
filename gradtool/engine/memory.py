"""Whether memory is left, and which errors were raised for want of it.

Libraries report a shortage in many ways, and some end the process: they are used only where there
is memory for them.
"""

from __future__ import annotations

import errno
import gc
import mmap
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from gradtool.errors import GradtoolError, ResourceError

ARRAYS: Final = (128 << 20, 64 << 20)
"""Bytes of address space, and of memory in it, for NumPy with a BLAS and one working thread."""

TORCH: Final = (768 << 20, 128 << 20)
"""The same for torch on a CPU."""

_SPARE: Final = 32 << 20
"""Bytes: where fewer are left, any failure is taken for a shortage of memory."""

_NO_THREAD: Final = "can't start new thread"
_ZLIB_NO_MEMORY: Final = "Error -4 "  # Z_MEM_ERROR


def has_memory(nbytes: int, protection: int = mmap.PROT_READ | mmap.PROT_WRITE) -> bool:
    """Whether the process can map `nbytes` more bytes now; no page of them is touched."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        mmap.mmap(-1, nbytes, flags, protection).close()
    except (OSError, MemoryError):
        return False
    return True


def require_memory(address_space: int, memory: int) -> None:
    """ResourceError unless that many bytes of address space and of memory are left.

    Pages that cannot be written to, as most of a library, count as address space only.
    """
    if not has_memory(address_space, mmap.PROT_READ):
        raise _no_memory(f"less than {address_space >> 20} MiB of address space is left")
    if not has_memory(memory):
        raise _no_memory(f"less than {memory >> 20} MiB is left")


def shortage(error: BaseException, path: str | None = None) -> ResourceError | None:
    """The error to raise instead of one that was raised for want of memory or threads; else None.

    `path` is the file that was read or written meanwhile.
    """
    if isinstance(error, ResourceError):
        return error
    chain = tuple(_chain(error))
    where = "" if path is None else f"{path}: "
    if any(isinstance(cause, RuntimeError) and _NO_THREAD in str(cause) for cause in chain):
        hint = "`ulimit -u` says how many there may be"
        return ResourceError(f"{where}no more threads can be started", hint=hint)
    if any(map(_says_no_memory, chain)):
        return _no_memory("it ran out", where)
    if isinstance(error, GradtoolError):
        # MemoryError is also what Python's parser raises for a text that is nested too deeply.
        return None
    if any(isinstance(cause, MemoryError) for cause in chain):
        return _no_memory("it ran out", where)
    # NumPy, the dynamic linker and Python's own core raise errors of other types for it.
    ran_out = f"it ran out ({type(error).__name__})"
    return None if has_memory(_SPARE) else _no_memory(ran_out, where)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, its cause, the cause of that, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _says_no_memory(error: BaseException) -> bool:
    """Whether the system or zlib raised it because memory ran out."""
    if isinstance(error, zlib.error):
        return _ZLIB_NO_MEMORY in str(error)
    return isinstance(error, OSError) and error.errno == errno.ENOMEM


@contextmanager
def reporting_shortage(path: str | None = None) -> Iterator[None]:
    """Turn errors raised inside for want of memory or threads into ResourceError."""
    try:
        yield
    except ResourceError:
        raise
    except Exception as error:
        resource_error = shortage(error, path)
        if resource_error is None:
            raise
        raise resource_error from error


def _no_memory(how: str, where: str = "") -> ResourceError:
    return ResourceError(
        f"{where}too little memory: {how}",
        hint="`ulimit -v` and the limits of the container say how much there may be",
    )


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the collector of cycles: a catalogue is of objects by the million, and has none.

    Looking through them again and again takes a quarter of the time to make it.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
