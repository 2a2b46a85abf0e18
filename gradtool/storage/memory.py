"""The memory of this process as a location, in which offsets are addresses."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Final

from gradtool.core.locations import Source
from gradtool.errors import UsageError
from gradtool.storage.reader import OpenLocation

MEMORY_PATH: Final = "memory"
"""What is shown in place of a file's path."""


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """The memory of the process with number `pid`, which no other process can read."""

    pid: int
    path: ClassVar[str] = MEMORY_PATH
    size: ClassVar[int] = 1 << 64
    identity: ClassVar[None] = None

    def open(self) -> Source:
        """Open it for reading; UsageError in another process."""
        if self.pid != os.getpid():
            problem = "gradients in memory can be read by the process that has them only"
            raise UsageError(problem, hint="use threads, or write them with dump_gradients")
        return _OpenMemory(self)


def memory() -> ProcessMemory:
    """The memory of this process."""
    return _memory_of(os.getpid())


_memory_of = cache(ProcessMemory)


class _OpenMemory(OpenLocation):
    """Open memory; its owner keeps arrays alive and unchanged meanwhile: nothing can check that."""

    def _read_some(self, offset: int, buffers: Sequence[memoryview]) -> int:
        buffer = buffers[0]
        ctypes.memmove(ctypes.addressof(ctypes.c_char.from_buffer(buffer)), offset, len(buffer))
        return len(buffer)
