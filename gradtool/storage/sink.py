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

_ITSELF: Final = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Sink:
    """A file open for writing in place, by its descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def allocate(self, nbytes: int) -> None:
        """Give it that size and its space, so that a full disk shows before any work in it.

        Writers in parallel are several times faster on space that is there than on a growing
        file.
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
        """The same open file for those who write by a position of their own."""
        return os.fdopen(os.dup(self.descriptor), "wb")

    def sync(self) -> None:
        """Have the disk hold what was written."""
        os.fsync(self.descriptor)


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
def create_sink(name: str, *, dir_fd: int | None = None) -> Iterator[Sink]:
    """A new file, where nothing was: not even a link, which would not be followed."""
    with _sink(os.open(name, _ITSELF | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=dir_fd)) as sink:
        yield sink


@contextmanager
def open_sink(name: str, *, dir_fd: int | None = None) -> Iterator[Sink]:
    """An existing file, and not what a link names, open for writing."""
    with _sink(os.open(name, _ITSELF, dir_fd=dir_fd)) as sink:
        yield sink


@contextmanager
def _sink(descriptor: int) -> Iterator[Sink]:
    try:
        yield Sink(descriptor)
    finally:
        os.close(descriptor)
