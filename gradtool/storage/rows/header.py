"""The first bytes of a store, looked at before SQLite is let near it."""

from __future__ import annotations

import os
import stat
import struct
from typing import Final

APPLICATION: Final = 0x67726474
"""SQLite's application id of our stores: `grdt`."""

RECORDED: Final = 0x67726472
"""That of stores of recorded runs: `grdr`."""

RECORDED_SUFFIX: Final = ".rows"
"""How the names of those end, so that no dump has to be opened to know that it is none."""

MOST_STEP: Final = (1 << 63) - 1
"""The largest number of a step that a row of SQLite can have."""

VERSION: Final = 1

_MAGIC: Final = b"SQLite format 3\0"
_ROLLBACK: Final = b"\1\1"
_JOURNAL_END: Final = bytes.fromhex("d9d505f920a163d7")
_COUNT_AT: Final = 24
_OPEN: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


def problem_of(path: str, application: int = APPLICATION) -> str | None:
    """What keeps a file from being a store of ours; None for one that may be, or an empty file.

    `application` says of which kind. A journal beside it may name a further one, which SQLite would
    read and remove: none of ours does. Raises OSError.
    Source: https://www.sqlite.org/fileformat2.html, sections 1.3 and 3.
    """
    head = _read(path, 0, 100)
    if head and (len(head) < 100 or not head.startswith(_MAGIC)):
        return "is no SQLite file"
    if head and head[18:20] != _ROLLBACK:
        return "is no store of gradtool"
    marks = (struct.unpack_from(">I", head, at)[0] for at in (60, 68) if head)
    if head and (*marks,) != (VERSION, application):
        return "is no store of gradtool, or of another version"
    journal = f"{path}-journal"
    if os.path.lexists(journal) and _end_of(journal) == _JOURNAL_END:
        return "has a journal that names another file"
    return None


def is_recorded(path: str) -> bool:
    """Whether a path is a file that begins as the store of a recorded run, and is called so."""
    if not path.endswith(RECORDED_SUFFIX):
        return False
    try:
        head = _read(path, 0, 100)
    except (OSError, ValueError):
        return False
    return head.startswith(_MAGIC) and head[68:72] == struct.pack(">I", RECORDED)


def without_link(path: str) -> str:
    """Where the file lies that a path is a name of: SQLite is let near no link."""
    return os.path.realpath(path) if os.path.islink(path) else path


def state_of(path: str) -> tuple[int, ...]:
    """What differs once a store was written; () where none is there, or nothing is in it yet.

    It begins with the device and the inode, and ends with what SQLite counts up at each change,
    which tells of one within a tick of the clock. No lock is taken, and nothing is believed.
    """
    try:
        status = os.lstat(path)
        if not status.st_size or stat.S_ISDIR(status.st_mode):
            return ()
        count = int.from_bytes(_read(path, _COUNT_AT, 4))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError):  # it is for who reads it to say what is wrong
        count = -1
    times = status.st_mtime_ns, status.st_ctime_ns
    return status.st_dev, status.st_ino, status.st_size, *times, count


def _read(path: str, offset: int, nbytes: int) -> bytes:
    descriptor = os.open(path, _OPEN)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is no regular file")
        return os.pread(descriptor, nbytes, offset)
    finally:
        os.close(descriptor)


def _end_of(path: str) -> bytes:
    size = os.lstat(path).st_size
    return _read(path, max(size - len(_JOURNAL_END), 0), len(_JOURNAL_END))
