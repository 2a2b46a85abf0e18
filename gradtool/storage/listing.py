"""The entries of a directory, looked at and opened by name."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from typing import Final

from gradtool.core.locations import Source
from gradtool.core.names import natural_key
from gradtool.errors import FileAccessError, UsageError
from gradtool.storage.reader import open_source

MOST_NAMES: Final = 100_000
"""Names that are looked at to find what lies below a directory."""

_ANY_DEPTH: Final = re.compile(r"(?:(?<=/)|\A)\*\*(/+|\Z)(?:\*\*(?:/+|\Z))*")


class Listing:
    """A directory on this machine, whose entries are not looked at before they are asked for.

    Readers of layouts never ask the system itself, so that directories elsewhere can be listed too.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._are_directories: dict[str, bool] = {}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All entries, layer 9 before layer 10; FileAccessError where it cannot be listed."""
        names = []
        try:
            with os.scandir(self.path or os.curdir) as entries:
                for entry in entries:
                    names.append(entry.name)
                    if not entry.is_symlink():
                        self._are_directories[entry.name] = entry.is_dir()
        except OSError as error:
            raise FileAccessError(self.path, f"cannot be listed: {error.strerror}") from error
        return tuple(sorted(names, key=lambda name: (natural_key(name), name)))

    def at(self, name: str) -> str:
        """The path of the entry `name`."""
        return os.path.join(self.path, name)

    def exists(self, name: str) -> bool:
        """Whether the entry exists; a link exists if its target does."""
        return os.path.exists(self.at(name))

    def is_directory(self, name: str) -> bool:
        """Whether the entry is a directory, or a link to one."""
        if name not in self._are_directories:  # of a run of thousands each is asked for thrice
            self._are_directories[name] = os.path.isdir(self.at(name))
        return self._are_directories[name]

    def is_file(self, name: str) -> bool:
        """Whether the entry is a regular file, or a link to one."""
        return os.path.isfile(self.at(name))

    def is_link(self, name: str) -> bool:
        """Whether the entry is a symbolic link."""
        return os.path.islink(self.at(name))

    def links_to(self, name: str) -> int:
        """How many links are on the way to the entry, itself among them."""
        parts = name.rstrip(os.sep).split(os.sep)
        ways = (os.sep.join(parts[:end]) for end in range(1, len(parts) + 1))
        return sum(self.is_link(way) for way in ways if way)

    def size(self, name: str) -> int:
        """The size in bytes of a file, 0 for one that is gone."""
        try:
            return os.stat(self.at(name)).st_size
        except OSError:
            return 0

    def folder(self, name: str) -> Listing:
        """The listing of a directory among the entries."""
        return Listing(self.at(name))

    def identity(self, name: str) -> tuple[int, int]:
        """Equal for all names of one file; FileAccessError if it may not be looked at."""
        path = self.at(name)
        try:
            try:
                status = os.stat(path)
            except OSError:  # a dangling link is an entry of its own; opening it says what is wrong
                status = os.lstat(path)
        except OSError as error:
            raise FileAccessError(path, f"cannot be looked at: {error.strerror}") from error
        return status.st_dev, status.st_ino

    def open(self, name: str) -> Source:
        """Open the file `name` for reading; raises as `open_source`."""
        return open_source(self.at(name))


def listing_of(path: str) -> Listing | None:
    """The listing of a directory; None for anything else."""
    return Listing(path) if os.path.isdir(path) else None


def expanded(path: str) -> list[str]:
    """`path` itself if it exists, else the paths that it matches as a glob, in natural order.

    Quoted globs reach gradtool unexpanded, so that neither the shell's rules nor its limit on
    arguments matter. A glob that matches nothing is returned as a path, which does not exist.
    """
    if not is_glob(path):
        return [path]
    found = dict.fromkeys(_Glob(path).matches(path))
    return sorted(found, key=natural_key) or [path]


def place_in_common(paths: Iterable[str]) -> str:
    """The directory, with a slash, in which all that paths and globs name lies; or ""."""
    levels = zip(*map(_parts_above, paths), strict=False)
    alike = itertools.takewhile(lambda parts: len(set(parts)) == 1, levels)
    return "".join(f"{part}/" for part, *_ in alike)


def _parts_above(path: str) -> list[str]:
    """The parts of a path without the last, of a glob those before the first that has magic."""
    *above, _ = path.rstrip("/").split("/")
    if os.path.lexists(path):
        return above
    return list(itertools.takewhile(lambda part: not glob.has_magic(part), above))


class _Glob:
    """One glob with the names that it has looked at: `**` goes through directories, not links.

    The standard library's follows links to directories, and those to themselves without an end.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.looked_at = 0

    def matches(self, pattern: str) -> Iterator[str]:
        """What a part of the glob matches: all until its first `**`, and the rest in each place."""
        deep = _ANY_DEPTH.search(pattern)
        if deep is None:
            yield from glob.glob(pattern)
            return
        before, after = pattern[: deep.start()], pattern[deep.end() :]
        for place in glob.glob(before) if before else [before]:
            if os.path.isdir(place or os.curdir):
                yield from self._below(place, after, only_directories=deep[1] != "")

    def _below(self, place: str, after: str, *, only_directories: bool) -> Iterator[str]:
        """The matches of `after` in a directory and in those below it, or all that is there."""
        waiting = [place]
        while waiting:
            directory = waiting.pop()
            if after:
                yield from self.matches(glob.escape(directory) + after)
            elif directory and (only_directories or directory == place):
                yield directory
            for entry in self._entries(directory):
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(os.path.join(directory, entry.name, ""))
                if not after and not only_directories:
                    yield os.path.join(directory, entry.name)

    def _entries(self, directory: str) -> Iterator[os.DirEntry[str]]:
        with suppress(OSError), os.scandir(directory or os.curdir) as entries:
            for entry in entries:
                self.looked_at += 1
                if self.looked_at > MOST_NAMES:
                    raise UsageError(
                        f"{self.pattern}: `**` passes more than {MOST_NAMES:,} names",
                        hint="name the directories more closely",
                    )
                if not entry.name.startswith("."):
                    yield entry


def is_glob(path: str) -> bool:
    """Whether `path` stands for what it matches: a file may well be called `grads[0].pt`."""
    return glob.has_magic(path) and not os.path.lexists(path)


def listing_around(path: str) -> tuple[Listing, str]:
    """The listing of the directory that a file lies in, and the file's name there."""
    directory, name = os.path.split(path)
    return Listing(directory), name


def is_plain(name: str) -> bool:
    """Whether a name that stands in a file is one of an entry, and leads nowhere else."""
    return name not in ("", ".", "..") and not any(part in name for part in ("/", "\\", "\0"))
