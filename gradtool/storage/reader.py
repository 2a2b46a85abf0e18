"""Opening and reading files so that nothing they claim can hurt.

Files are read with `pread` and never mapped: a mapping of a file that is truncated meanwhile
kills the process with SIGBUS, while `pread` returns a short count, at the same speed.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from gradtool.core.locations import Location, Source
from gradtool.errors import CorruptFileError, FileAccessError, FileChangedError


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file as it was when its headers were read, and as it has to be when it is opened again.

    Hosts that mount one file system give it different device numbers: `device` tells files apart on
    one host only, and is not compared.
    """

    path: str
    device: int = field(compare=False)
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @property
    def identity(self) -> tuple[int, int]:
        """See `Location`."""
        return self.device, self.inode

    def open(self) -> Source:
        """Open the file again, in any thread or process; FileChangedError if it changed."""
        source = open_source(self.path)
        if source.file != self:
            source.close()
            raise FileChangedError(self.path, "changed while it was read", hint=_CHANGED_HINT)
        return source


class OpenLocation(ABC):
    """What all sources share; what kind of location it is, a derived class says."""

    def __init__(self, file: Location) -> None:
        self._file = file

    @property
    def path(self) -> str:
        """See `Source`, as for all other methods."""
        return self._file.path

    @property
    def file(self) -> Location:
        """See `Source`."""
        return self._file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """See `Source`."""

    def read(self, offset: int, nbytes: int) -> bytes:
        """See `Source`."""
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
        """See `Source`."""
        done = 0
        while done < len(buffer):
            done += self._read_some(offset + done, [buffer[done:]])

    def read_vector(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """See `Source`."""
        read = self._read_some(offset, buffers)
        for buffer in buffers:
            filled = min(read, len(buffer))
            self.read_into(offset + filled, buffer[filled:])
            read -= filled
            offset += len(buffer)

    @abstractmethod
    def check_unchanged(self) -> None:
        """See `Source`."""

    def fileno(self) -> int:
        """See `Source`."""
        raise FileAccessError(self.path, "is no file of this machine")

    @abstractmethod
    def _read_some(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Read at least one byte into `buffers`, in order; the number of bytes read."""


class _OpenFile(OpenLocation):
    """An open regular file."""

    def __init__(self, file: LocalFile, descriptor: int) -> None:
        super().__init__(file)
        self._descriptor = descriptor

    def close(self) -> None:
        os.close(self._descriptor)

    def check_unchanged(self) -> None:
        if _identity(self.path, os.fstat(self._descriptor)) != self.file:
            raise FileChangedError(self.path, "changed while it was read", hint=_CHANGED_HINT)

    def fileno(self) -> int:
        return self._descriptor

    def _read_some(self, offset: int, buffers: Sequence[memoryview]) -> int:
        try:
            count = os.preadv(self._descriptor, buffers, offset)
        except OSError as error:
            raise FileAccessError(
                self.path, f"cannot be read: {error.strerror}", byte=offset
            ) from error
        if count == 0:
            raise FileChangedError(self.path, "ended while it was read: it shrank", byte=offset)
        return count


_CHANGED_HINT: Final = "run again once nothing writes to it"


def open_source(path: str) -> Source:
    """Open a regular file for reading; FileAccessError for anything else, which is not read."""
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
    return _OpenFile(_identity(path, status), descriptor)


def _identity(path: str, status: os.stat_result) -> LocalFile:
    # Whoever may write a file may put its mtime back; its ctime is the system's own.
    return LocalFile(
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
