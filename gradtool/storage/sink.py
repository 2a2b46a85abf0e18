"""Writing to a file at absolute offsets, from any thread."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Final

PIECE_NBYTES: Final = 1 << 17
"""Bytes of one system call.

Linux caches a write in pages as large as the call, and on virtual machines, which have to ask
for such pages, calls of 8 MiB took up to four times as long.
"""

_WRITE_FLAGS: Final = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Sink:
    """A file open for writing in place, by its descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def allocate(self, nbytes: int) -> None:
        """Set the file's size and reserve its space, so that a full disk shows before any work.

        Parallel writes into reserved space are several times faster than into a growing file.
        """
        if hasattr(os, "posix_fallocate") and nbytes:
            try:
                os.posix_fallocate(self.descriptor, 0, nbytes)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
            else:
                return
        os.ftruncate(self.descriptor, nbytes)

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data` at `offset`."""
        done = 0
        while done < len(data):
            done += os.pwrite(self.descriptor, data[done:], offset + done)

    def write_vector(self, offset: int, buffers: Iterable[memoryview]) -> None:
        """Write `buffers`, at most 1,024 of them, one after another."""
        for batch in _batches(buffers):
            written = os.pwritev(self.descriptor, batch, offset)
            for buffer in batch:
                done = min(written, len(buffer))
                self.write(offset + done, buffer[done:])
                written -= done
                offset += len(buffer)

    def stream(self) -> BinaryIO:
        """The file as a Python file, which has a position and is closed by itself."""
        return os.fdopen(os.dup(self.descriptor), "wb")

    def sync(self) -> None:
        """Sync the file to disk."""
        os.fsync(self.descriptor)


def _batches(buffers: Iterable[memoryview]) -> Iterator[Sequence[memoryview]]:
    """The same bytes in the same order, in batches that one call writes each."""
    batch: list[memoryview] = []
    missing = PIECE_NBYTES
    for buffer in buffers:
        start = 0
        while start < len(buffer):
            part = buffer[start : start + missing]
            batch.append(part)
            start += len(part)
            missing -= len(part)
            if missing == 0:
                yield batch
                batch, missing = [], PIECE_NBYTES
    if batch:
        yield batch


@contextmanager
def create_sink(name: str, *, dir_fd: int | None = None) -> Iterator[Sink]:
    """Create a file and open it for writing; OSError if anything has its name, even a link."""
    flags = _WRITE_FLAGS | os.O_CREAT | os.O_EXCL
    with _sink(os.open(name, flags, 0o666, dir_fd=dir_fd)) as sink:
        yield sink


@contextmanager
def open_sink(name: str, *, dir_fd: int | None = None) -> Iterator[Sink]:
    """Open an existing file for writing; OSError for a link."""
    with _sink(os.open(name, _WRITE_FLAGS, dir_fd=dir_fd)) as sink:
        yield sink


@contextmanager
def _sink(descriptor: int) -> Iterator[Sink]:
    try:
        yield Sink(descriptor)
    finally:
        os.close(descriptor)
