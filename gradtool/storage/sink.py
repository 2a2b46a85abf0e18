"""Writing to a file at absolute offsets, from any thread or process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Sink:
    """A file open for writing in place."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data` at `offset`."""
        done = 0
        while done < len(data):
            done += os.pwritev(self._descriptor, [data[done:]], offset + done)

    def write_vector(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Write `buffers`, at most 1,024 of them, one after another."""
        written = os.pwritev(self._descriptor, buffers, offset)
        for buffer in buffers:
            done = min(written, len(buffer))
            self.write(offset + done, buffer[done:])
            written -= done
            offset += len(buffer)


@contextmanager
def open_sink(path: str) -> Iterator[Sink]:
    """An existing file, open for writing."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        yield Sink(descriptor)
    finally:
        os.close(descriptor)
