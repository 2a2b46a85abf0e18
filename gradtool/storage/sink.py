"""Writing to a file at absolute offsets, from any thread or process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

PIECE_NBYTES: Final = 1 << 17
"""Bytes of one system call.

Linux caches a write in pages as large as the call, and on virtual machines, which have to ask
for such pages, calls of 8 MiB took up to four times as long.
"""


class Sink:
    """A file open for writing in place."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data` at `offset`."""
        done = 0
        while done < len(data):
            done += os.pwrite(self._descriptor, data[done:], offset + done)

    def write_vector(self, offset: int, buffers: Iterable[memoryview]) -> None:
        """Write `buffers`, at most 1,024 of them, one after another."""
        for batch in _batches(buffers):
            written = os.pwritev(self._descriptor, batch, offset)
            for buffer in batch:
                done = min(written, len(buffer))
                self.write(offset + done, buffer[done:])
                written -= done
                offset += len(buffer)


def _batches(buffers: Iterable[memoryview]) -> Iterator[Sequence[memoryview]]:
    """The same bytes in the same order, in what is written by one call each."""
    batch: list[memoryview] = []
    room = PIECE_NBYTES
    for buffer in buffers:
        start = 0
        while start < len(buffer):
            part = buffer[start : start + room]
            batch.append(part)
            start += len(part)
            room -= len(part)
            if room == 0:
                yield batch
                batch, room = [], PIECE_NBYTES
    if batch:
        yield batch


@contextmanager
def open_sink(path: str) -> Iterator[Sink]:
    """An existing file, open for writing."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        yield Sink(descriptor)
    finally:
        os.close(descriptor)
