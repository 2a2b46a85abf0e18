"""Opening and reading files so that nothing they claim can hurt.

Files are read with `pread` and never mapped: a mapping of a file that is truncated meanwhile
kills the process with SIGBUS, while `pread` returns a short count, at the same speed.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Sequence
from types import TracebackType
from typing import BinaryIO, Self

from gradtool.core.tensors import MEMORY, SourceFile
from gradtool.errors import CorruptFileError, FileAccessError, FileChangedError


class Source:
    """An open regular file, read by absolute offset; a context manager.

    `file` is its identity. Reads outside of that identity's size are refused before anything
    is allocated, and `check_unchanged` compares the identity again.
    """

    def __init__(self, path: str, descriptor: int, file: SourceFile) -> None:
        self.path = path
        self.file = file
        self._descriptor = descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)

    def read(self, offset: int, nbytes: int) -> bytes:
        """`nbytes` bytes from `offset`; CorruptFileError where the file does not hold them.

        The result is allocated whole: for headers, whose size the caller has bounded.
        """
        if offset < 0 or nbytes < 0 or offset + nbytes > self.file.size:
            raise CorruptFileError(
                self.path,
                f"needs {nbytes} bytes, the file ends at byte {self.file.size}: truncated",
                byte=offset,
            )
        data = bytearray(nbytes)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`; FileChangedError where the bytes are gone."""
        done = 0
        while done < len(buffer):
            done += self._read_some(offset + done, [buffer[done:]])

    def read_vector(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill `buffers`, at most 1,024 of them, one after another; else as `read_into`."""
        read = self._read_some(offset, buffers)
        for buffer in buffers:
            filled = min(read, len(buffer))
            self.read_into(offset + filled, buffer[filled:])
            read -= filled
            offset += len(buffer)

    def _read_some(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """How many bytes the system was willing to read at once, at least one."""
        try:
            count = os.preadv(self._descriptor, buffers, offset)
        except OSError as error:
            raise FileAccessError(
                self.path, f"cannot be read: {error.strerror}", byte=offset
            ) from error
        if count == 0:
            raise FileChangedError(self.path, "ended while it was read: it shrank", byte=offset)
        return count

    def fileno(self) -> int:
        """The descriptor, for what is no reading: permissions and attributes."""
        return self._descriptor

    def stream(self) -> BinaryIO:
        """The same open file for those who read by a position of their own."""
        return os.fdopen(os.dup(self._descriptor), "rb")

    def check_unchanged(self) -> None:
        """FileChangedError unless size, times and identity are what they were at the start."""
        if _identity(self.path, os.fstat(self._descriptor)) != self.file:
            raise FileChangedError(self.path, "changed while it was read", hint=_CHANGED_HINT)


class _Memory(Source):
    """The memory of this process: its owner keeps what is read alive, and unchanged."""

    def close(self) -> None:
        """Nothing was opened."""

    def check_unchanged(self) -> None:
        """Nobody can tell."""

    def _read_some(self, offset: int, buffers: Sequence[memoryview]) -> int:
        buffer = buffers[0]
        ctypes.memmove(ctypes.addressof(ctypes.c_char.from_buffer(buffer)), offset, len(buffer))
        return len(buffer)


_CHANGED_HINT = "run again once nothing writes to it"


def open_source(path: str) -> Source:
    """Open a regular file for reading; a FIFO, device or directory is refused unread."""
    try:
        # O_NONBLOCK: opening a FIFO would otherwise wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise FileAccessError(path, "no such file or directory") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise FileAccessError(path, f"cannot be opened: {reason}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise FileAccessError(path, f"is {_kind_of_file(status.st_mode)}, not a regular file")
    return Source(path, descriptor, _identity(path, status))


def reopen_source(file: SourceFile) -> Source:
    """Open a catalogued file again, in any thread or process; refused if it is another now.

    `MEMORY` is opened in its own process only.
    """
    if file is MEMORY:
        return _Memory(MEMORY.path, -1, MEMORY)
    source = open_source(file.path)
    if source.file != file:
        source.close()
        raise FileChangedError(file.path, "changed while it was read", hint=_CHANGED_HINT)
    return source


def _identity(path: str, status: os.stat_result) -> SourceFile:
    # Whoever may write a file may put its mtime back; its ctime is the system's own.
    return SourceFile(
        path,
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _kind_of_file(mode: int) -> str:
    for test, words in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
    ):
        if test(mode):
            return words
    return "special"
