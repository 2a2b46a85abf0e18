"""What tells a dump that was measured before from one that changed: files as the system has them.

Nothing of their content is read.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final, NamedTuple

from gradtool.storage.listing import expanded

MOST_FILES: Final = 10_000
"""Names in a dump; one of more is measured each time."""

SETTLED_NS: Final = 2_000_000_000
"""How long nothing must have changed: within one tick of a file system's clock no time tells."""

_DEEPEST: Final = 8


class Entry(NamedTuple):
    """A file or folder: its name below the dump's path, and what changes with it."""

    name: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class Identity:
    """The files of a dump, in the order of their names, with folders."""

    entries: tuple[Entry, ...]

    def is_settled(self, now_ns: int) -> bool:
        """Whether nothing changed in the two seconds before a time, or after it."""
        newest = max((max(one.mtime_ns, one.ctime_ns) for one in self.entries), default=now_ns)
        return newest + SETTLED_NS <= now_ns

    def holds(self, files: Sequence[str]) -> bool:
        """Whether it is known of all these files whether they change."""
        named = {one.name for one in self.entries}
        others = [file for file in files if file not in named]
        known = {(one.device, one.inode) for one in self.entries} if others else set()
        try:
            return all((status.st_dev, status.st_ino) in known for status in map(os.stat, others))
        except OSError:
            return False

    def key(self, *also: str) -> bytes:
        """A digest of all of it, and of other texts."""
        digest = hashlib.sha256()
        for text in (*also, *("\0".join(map(str, one)) for one in self.entries)):
            data = text.encode(errors="surrogateescape")
            digest.update(b"%d:" % len(data))
            digest.update(data)
        return digest.digest()


def identity_of(paths: Sequence[str]) -> Identity | None:
    """What lies at paths and globs; None where that cannot be told, or is too much to look at."""
    found: list[Entry] = []
    try:
        for path in paths:
            for name in expanded(path):
                # What an index names lies beside it.
                place = os.path.dirname(name) or os.curdir if name.endswith(".json") else name
                status = os.stat(place)
                found.append(_entry(name, status))
                if stat.S_ISDIR(status.st_mode):
                    _look_into(place, name, found, _DEEPEST)
                if len(found) > MOST_FILES:
                    return None
    except (OSError, _TooMuchError):
        return None
    return Identity(tuple(found)) if found else None


class _TooMuchError(Exception):
    """More than is looked at."""


def _look_into(path: str, name: str, found: list[Entry], levels: int) -> None:
    """Add all that lies in a directory and below; those behind links are not looked into."""
    with os.scandir(path) as entries:
        inside = sorted(entries, key=attrgetter("name"))
    if levels == 0 or len(found) + len(inside) > MOST_FILES:
        raise _TooMuchError
    for entry in inside:
        below = os.path.join(name, entry.name)
        try:
            status = entry.stat()
        except OSError:  # a link to nothing
            status = entry.stat(follow_symlinks=False)
        found.append(_entry(below, status))
        if entry.is_dir(follow_symlinks=False):
            _look_into(entry.path, below, found, levels - 1)


def _entry(name: str, status: os.stat_result) -> Entry:
    return Entry(
        name,
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def now_ns() -> int:
    """The time by the clock that files are dated by."""
    return time.time_ns()
