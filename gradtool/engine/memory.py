"""Whether there is memory left, and what was raised because there was not.

Libraries tell of it in many ways, and some end the process: they are asked for nothing unless
there is room for it.
"""

from __future__ import annotations

import errno
import mmap
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from gradtool.errors import GradtoolError, ResourceError

ARRAYS: Final = (128 << 20, 64 << 20)
"""Address space, and memory in it, for NumPy with a BLAS and for one thread that works."""

TORCH: Final = (768 << 20, 128 << 20)
"""The same for torch on a CPU, in bytes."""

_SPARE: Final = 32 << 20
"""Where not even so much is left, whatever fails fails for want of it."""

_NO_THREAD: Final = "can't start new thread"
_ZLIB_NO_MEMORY: Final = "Error -4 "  # Z_MEM_ERROR


def has_room(nbytes: int, protection: int = mmap.PROT_READ | mmap.PROT_WRITE) -> bool:
    """Whether the process could map so many bytes more, now; no page of them is touched."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        mmap.mmap(-1, nbytes, flags, protection).close()
    except (OSError, MemoryError):
        return False
    return True


def require_room(address_space: int, memory: int) -> None:
    """ResourceError unless there is so much left, in bytes.

    What cannot be written to, as most of a library, counts as address space only.
    """
    if not has_room(address_space, mmap.PROT_READ):
        raise _no_memory(f"less than {address_space >> 20} MiB of address space is left")
    if not has_room(memory):
        raise _no_memory(f"less than {memory >> 20} MiB is left")


def shortage(error: BaseException, path: str | None = None) -> ResourceError | None:
    """The error to tell of instead, where `error` was raised for want of memory or threads.

    `path` is what was being read or written.
    """
    if isinstance(error, ResourceError):
        return error
    chain = tuple(_chain(error))
    where = "" if path is None else f"{path}: "
    if any(isinstance(one, RuntimeError) and _NO_THREAD in str(one) for one in chain):
        hint = "`ulimit -u` says how many there may be"
        return ResourceError(f"{where}no more threads can be started", hint=hint)
    if any(map(_says_no_memory, chain)):
        return _no_memory("it ran out", where)
    if isinstance(error, GradtoolError):
        # MemoryError is also what Python's parser raises for a text that is nested too deeply.
        return None
    if any(isinstance(one, MemoryError) for one in chain):
        return _no_memory("it ran out", where)
    # NumPy, the dynamic linker and Python's own core have names of their own for it.
    return None if has_room(_SPARE) else _no_memory(f"it ran out ({type(error).__name__})", where)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised for."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _says_no_memory(error: BaseException) -> bool:
    """Whether the system or zlib says so."""
    if isinstance(error, zlib.error):
        return _ZLIB_NO_MEMORY in str(error)
    return isinstance(error, OSError) and error.errno == errno.ENOMEM


@contextmanager
def shortage_told(path: str | None = None) -> Iterator[None]:
    """ResourceError for whatever is raised inside for want of memory or threads."""
    try:
        yield
    except ResourceError:
        raise
    except Exception as error:
        told = shortage(error, path)
        if told is None:
            raise
        raise told from error


def _no_memory(how: str, where: str = "") -> ResourceError:
    return ResourceError(
        f"{where}too little memory: {how}",
        hint="`ulimit -v` and the limits of the container say how much there may be",
    )
