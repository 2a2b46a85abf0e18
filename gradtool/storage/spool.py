"""Streams written to a temporary file without a name, to be read at any offset."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Final

from gradtool.core.locations import Extent, Source, Stream
from gradtool.errors import ResourceError
from gradtool.storage.reader import OpenLocation

SPOOL_PATH: Final = "a temporary file"
"""What is shown in place of its path."""

_PIECE_NBYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class _Spooled:
    """An open file of this process, which has no name."""

    descriptor: int
    size: int
    path: ClassVar[str] = SPOOL_PATH
    identity: ClassVar[None] = None

    def open(self) -> Source:
        """Open it for reading."""
        return _OpenSpool(self)


class _OpenSpool(OpenLocation):
    """The file, read: nobody else can change it."""

    def __init__(self, file: _Spooled) -> None:
        super().__init__(file)
        self._descriptor = file.descriptor

    def close(self) -> None:
        """It is closed where it was made."""

    def check_unchanged(self) -> None:
        """Nobody else has it."""

    def _read_some(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return os.preadv(self._descriptor, buffers, offset)


@contextmanager
def spooled(stream: Stream) -> Iterator[Extent]:
    """All bytes of a stream in a temporary file, which is gone afterwards.

    It lies where TMPDIR says. Raises InputError for the stream, and ResourceError, before anything
    is written, where the disk has too little space.
    """
    try:
        folder = tempfile.gettempdir()
        _require_space(folder, stream.nbytes)
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed below
    except OSError as error:
        raise ResourceError(f"no temporary file can be made: {error}") from error
    with file:
        try:
            for piece in stream.pieces(_PIECE_NBYTES):
                file.write(piece)
            file.flush()
        except OSError as error:
            problem = f"a temporary file in {folder} cannot be written: {error.strerror}"
            raise ResourceError(problem) from error
        yield Extent(_Spooled(file.fileno(), stream.nbytes), 0, stream.nbytes)


def _require_space(folder: str, nbytes: int) -> None:
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if status.f_blocks and nbytes > free:  # some file systems do not tell
        raise ResourceError(
            f"a temporary file of {nbytes:,} bytes is needed, {free:,} are free in {folder}",
            hint="TMPDIR may name a folder with more space",
        )
