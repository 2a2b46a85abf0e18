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
    """The memory of the process with number `pid`, which no other process can read.

    Containers and hosts number their processes alike, and `start` tells those apart.
    """

    pid: int
    start: bytes
    path: ClassVar[str] = MEMORY_PATH
    size: ClassVar[int] = 1 << 64
    identity: ClassVar[None] = None

    def open(self) -> Source:
        """Open it for reading; UsageError in another process."""
        if self != memory():
            problem = "gradients in memory can be read by the process that has them only"
            raise UsageError(problem, hint="use threads, or write them with dump_gradients")
        return _OpenMemory(self)


def memory() -> ProcessMemory:
    """The memory of this process."""
    return _memory_of(os.getpid())  # which a fork changes


@cache
def _memory_of(pid: int) -> ProcessMemory:
    return ProcessMemory(pid, _START)


_START: Final = os.urandom(16)


class _OpenMemory(OpenLocation):
    """Open memory; its owner keeps arrays alive and unchanged meanwhile: nothing can check that."""

    def close(self) -> None:
        """Nothing was opened."""

    def check_unchanged(self) -> None:
        """Nobody can tell."""

    def _read_some(self, offset: int, buffers: Sequence[memoryview]) -> int:
        buffer = buffers[0]
        ctypes.memmove(ctypes.addressof(ctypes.c_char.from_buffer(buffer)), offset, len(buffer))
        return len(buffer)
