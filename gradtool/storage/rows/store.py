"""A store of rows: a SQLite file that several processes share, and that nobody depends on.

It is input like any other file: what is not of its form is not used, and what cannot be read or
written ends it for this process; dumps are then measured as if there were none.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from contextlib import suppress
from types import TracebackType
from typing import Final, NamedTuple, Self

from gradtool.storage.rows.connection import (
    FAULTS,
    connected,
    is_damage,
    make,
    transaction,
)
from gradtool.storage.rows.header import problem_of
from gradtool.storage.rows.place import NoStoreError
from gradtool.storage.rows.seals import opened, sealed

MOST_BYTES: Final = 2 << 30
"""The size that a store keeps to; what was put in first goes first."""

_FLUSH_S: Final = 1.0
_FLUSH_BYTES: Final = 8 << 20
"""After how long, or how many bytes, what is new is written: a transaction takes a disk's time."""

_OUT_AT_ONCE: Final = 16
"""Which part of the dumps goes when room is needed."""


class Kept(NamedTuple):
    """How much a store holds: dumps, and bytes of its file."""

    dumps: int
    nbytes: int


class RowStore:
    """An open store; a context manager, which writes what is new at its end.

    Nothing it does raises an error once it is open: `problem` says what ended it, "" if nothing,
    and `is_damaged` whether what it holds is at fault.
    """

    def __init__(self, path: str, *, most_bytes: int = MOST_BYTES) -> None:
        """Open the store at a path, which need not be there; NoStoreError if that cannot be."""
        self.path = path
        self.problem = ""
        self.is_damaged = False
        self._most_bytes = most_bytes
        self._new: list[tuple[str, tuple[bytes, ...]]] = []
        self._new_nbytes = 0
        self._catalogue: tuple[bytes, bytes] | None = None
        self._flushed = time.monotonic()
        make(path)
        try:
            problem = problem_of(path)
        except OSError as error:
            raise NoStoreError(f"{path} cannot be read: {error.strerror}") from error
        if problem is not None:
            raise NoStoreError(f"{path} {problem}", is_damaged=True)
        try:
            self._connection = connected(path)
        except FAULTS as error:
            raise NoStoreError(f"{path}: {error}", is_damaged=is_damage(error)) from error

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
        """Write what is new, and close."""
        self.flush()
        with suppress(*FAULTS):
            self._connection.close()
        self.problem = self.problem or "it was closed"

    def dump(self, key: bytes) -> tuple[bytes, bytes] | None:
        """The catalogue's digest and the figures of a dump; None if they are not there."""
        return self._one("SELECT catalogue, content FROM dumps WHERE key = ?", key)

    def catalogue(self, digest: bytes) -> bytes | None:
        """The catalogue of that digest."""
        found = self._one("SELECT digest, content FROM catalogues WHERE digest = ?", digest)
        return None if found is None else found[1]

    def judged(self, key: bytes, policy: bytes) -> bytes | None:
        """What was said of a dump by a policy."""
        found = self._one(
            "SELECT policy, content FROM judged WHERE key = ? AND policy = ?", key, policy
        )
        return None if found is None else found[1]

    def add_dump(self, key: bytes, catalogue: bytes, figures: bytes) -> None:
        """Keep the figures of a dump, and its catalogue."""
        digest = self._digest_of(catalogue)
        self._add(
            "INSERT OR REPLACE INTO dumps (key, catalogue, content) VALUES (?, ?, ?)",
            *(key, digest, sealed(figures)),
        )

    def _digest_of(self, catalogue: bytes) -> bytes:
        """The digest of a catalogue, which is written once for all dumps of a transaction."""
        if self._catalogue is not None and self._catalogue[0] is catalogue:
            return self._catalogue[1]
        digest = hashlib.sha256(catalogue).digest()
        self._catalogue = catalogue, digest
        self._add("INSERT OR IGNORE INTO catalogues VALUES (?, ?)", digest, sealed(catalogue))
        return digest

    def add_judged(self, key: bytes, policy: bytes, row: bytes) -> None:
        """Keep what was said of a dump by a policy."""
        self._add("INSERT OR REPLACE INTO judged VALUES (?, ?, ?)", key, policy, sealed(row))

    def flush(self) -> None:
        """Write what is new, in one transaction."""
        new, self._new, nbytes = self._new, [], self._new_nbytes
        self._new_nbytes, self._flushed = 0, time.monotonic()
        self._catalogue = None
        if self.problem or not new:
            return
        try:
            with transaction(self._connection):
                self._make_room(nbytes)
                for statement, values in new:
                    self._connection.execute(statement, values)
        except FAULTS as error:
            self._end(error)

    def kept(self) -> Kept:
        """How much it holds."""
        try:
            (dumps,) = self._connection.execute("SELECT count(*) FROM dumps").fetchone()
            return Kept(int(dumps), os.stat(self.path).st_size)
        except (*FAULTS, OSError) as error:
            self._end(error)
            return Kept(0, 0)

    def clear(self) -> None:
        """Drop all that it holds."""
        self._new, self._new_nbytes, self._catalogue = [], 0, None
        try:
            with transaction(self._connection):
                for table in ("judged", "dumps", "catalogues"):
                    self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 - ours
            self._connection.execute("VACUUM")
        except FAULTS as error:
            self._end(error)

    def distrust(self, problem: str) -> None:
        """Use it no more: what it holds is not what was put in."""
        self._end(sqlite3.DatabaseError(problem))

    def _add(self, statement: str, *values: bytes) -> None:
        if self.problem:
            return
        self._new.append((statement, values))
        self._new_nbytes += sum(map(len, values))
        is_due = time.monotonic() - self._flushed > _FLUSH_S or self._new_nbytes > _FLUSH_BYTES
        if is_due:
            self.flush()

    def _one(self, query: str, *values: bytes) -> tuple[bytes, bytes] | None:
        """The only row of a query: something, and a content whose seal is whole."""
        if self.problem:
            return None
        try:
            row = self._connection.execute(query, values).fetchone()
            if row is None:
                return None
            first, content = row
            if not isinstance(first, bytes) or not isinstance(content, bytes):
                raise sqlite3.DatabaseError("what it holds is no bytes")
            return first, opened(content)
        except FAULTS as error:
            self._end(error)
            return None

    def _end(self, error: Exception) -> None:
        """What ends the store rather than the command: it is locked, full, damaged."""
        self.problem = str(error)
        self.is_damaged = is_damage(error)

    def _make_room(self, nbytes: int) -> None:
        """Drop what was put in first, until so many bytes more fit."""
        while self._used() + nbytes > self._most_bytes:
            (dumps,) = self._connection.execute("SELECT count(*) FROM dumps").fetchone()
            if not dumps:
                return
            until = self._connection.execute(
                "SELECT nth FROM dumps ORDER BY nth LIMIT 1 OFFSET ?",
                (dumps // _OUT_AT_ONCE,),
            ).fetchone()
            self._connection.execute("DELETE FROM dumps WHERE nth <= ?", until)
            self._connection.execute("DELETE FROM judged WHERE key NOT IN (SELECT key FROM dumps)")
            self._connection.execute(
                "DELETE FROM catalogues WHERE digest NOT IN (SELECT catalogue FROM dumps)"
            )

    def _used(self) -> int:
        pages, free, size = (
            int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size
