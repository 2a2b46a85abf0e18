"""Rows that a training loop records of its steps: a store that is a run by itself.

Nothing else has what it holds, unlike a store of dumps' rows: no row is dropped for room. To write,
a connection lives as long as one transaction, so that a process that forks, is killed or goes on
for weeks holds no lock and leaves nothing half written.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Final, NamedTuple

from gradtool.storage.rows.connection import (
    FAULTS,
    PATIENCE_S,
    connected,
    is_damage,
    make,
    transaction,
)
from gradtool.storage.rows.header import RECORDED, problem_of
from gradtool.storage.rows.place import NoStoreError
from gradtool.storage.rows.seals import opened, sealed

_STEPS: Final = (
    "CREATE TABLE steps (step INTEGER PRIMARY KEY, session INTEGER, times INTEGER, "
    "change INTEGER, catalogue BLOB, content BLOB)"
)
"""Of each step: which opening of the store recorded it, how many of them did, and when it was."""

_TABLES: Final = (
    "CREATE TABLE catalogues (digest BLOB PRIMARY KEY, content BLOB)",
    _STEPS,
    "CREATE INDEX changes ON steps (change)",  # who follows a run asks for what is new only
)

_ADD: Final = (
    "INSERT INTO steps VALUES (?, ?, 1, ?, ?, ?) ON CONFLICT (step) DO UPDATE SET "
    "times = times + (session <> excluded.session), session = excluded.session, "
    "change = excluded.change, catalogue = excluded.catalogue, content = excluded.content"
)
_LAST_CHANGE: Final = 1 << 62
"""Beyond any time in nanoseconds until 2116: a larger number is no change of ours."""

_WRITING_PATIENCE_S: Final = 0.2
"""How long a training waits for one who reads: rows that are not written now are written later."""

_COMMIT_S: Final = 1.0
"""After how long new rows are written: a transaction waits for a disk some milliseconds."""

_MOST_WAITING: Final = 16 << 20
"""Bytes of rows that wait for a store that takes none; then the oldest are lost."""


class Recorded(NamedTuple):
    """A step as it was recorded, the last time.

    Attributes:
        session: which opening of the store recorded it, counted from 1.
        times: how many of them did.
        change: larger than that of every row that was written before it, in this store or, but for
            clocks that go backwards, in one that lay there before.
        catalogue: the digest of its catalogue.
        figures: its bytes, as `measurements` spells them.
    """

    step: int
    session: int
    times: int
    change: int
    catalogue: bytes
    figures: bytes


class RecordWriter:
    """Puts the rows of steps into a store: once a second, and on demand.

    Nothing raises an error once it is made: `problem` says why rows wait, "" if none does.
    """

    def __init__(self, path: str) -> None:
        """Make a store at a path where there is none; NoStoreError for what is no such store."""
        self.path = os.path.abspath(path)
        self.problem = ""
        self._session = 0
        self._process = os.getpid()
        self._waiting: dict[int, tuple[bytes, bytes]] = {}
        self._nbytes = 0
        self._tried = -_COMMIT_S
        make(self.path)
        with _connection(self.path):  # patiently: all ranks may begin at once
            pass

    def add(self, step: int, catalogue: bytes, figures: bytes, *, at_once: bool = False) -> None:
        """Keep a step's row, in the place of an earlier one of it."""
        if os.getpid() != self._process:  # a fork, whose parent writes the rows that wait
            self._process, self._session, self._nbytes = os.getpid(), 0, 0
            self._waiting.clear()
        self._forget(step)
        self._waiting[step] = catalogue, figures
        self._nbytes += len(figures) + len(catalogue)
        while self._nbytes > _MOST_WAITING and len(self._waiting) > 1:
            self._forget(next(iter(self._waiting)))
        if at_once or time.monotonic() - self._tried >= _COMMIT_S:
            self.flush()

    def flush(self) -> None:
        """Write what waits, in one transaction; what cannot be written goes on waiting."""
        if not self._waiting or os.getpid() != self._process:
            return
        self._tried = time.monotonic()
        try:
            make(self.path)
            connecting = _connection(self.path, _WRITING_PATIENCE_S)
            with connecting as connection, transaction(connection):
                self._write(connection)
        except NoStoreError as error:
            self.problem = str(error)
            return
        self._waiting.clear()
        self._nbytes, self.problem = 0, ""

    def _write(self, connection: sqlite3.Connection) -> None:
        if not self._session:
            (last,) = connection.execute("SELECT max(session) FROM steps").fetchone()
            self._session = (last if isinstance(last, int) else 0) + 1
        newest = _newest_change(connection)
        first = max((newest if newest < _LAST_CHANGE else 0) + 1, time.time_ns())
        for change, (step, (catalogue, figures)) in enumerate(self._waiting.items(), first):
            digest = hashlib.sha256(catalogue).digest()
            values = digest, sealed(catalogue)
            connection.execute("INSERT OR IGNORE INTO catalogues VALUES (?, ?)", values)
            connection.execute(_ADD, (step, self._session, change, digest, sealed(figures)))

    def _forget(self, step: int) -> None:
        known = self._waiting.pop(step, (b"", b""))
        self._nbytes -= sum(map(len, known))


class RecordReader:
    """Reads the rows of a store one by one, so that who writes never waits long.

    Every method raises NoStoreError for a store that cannot be read, or is not what was written.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def steps(self, last: int | None) -> list[int]:
        """The numbers of the steps, or of the last so many, in their order."""
        limit = -1 if last is None else last
        query = "SELECT step FROM steps ORDER BY step DESC LIMIT ?"
        found = [step for (step,) in self._connection.execute(query, (limit,)) if _counts(step)]
        return found[::-1]

    def row(self, step: int) -> Recorded | None:
        """The row of a step; None where it has gone."""
        query = "SELECT session, times, change, catalogue, content FROM steps WHERE step = ?"
        found = self._connection.execute(query, (step,)).fetchone()
        if found is None:
            return None
        session, times, change, catalogue, content = found
        if not (all(map(_counts, found[:3])) and isinstance(catalogue, bytes)):
            raise sqlite3.DatabaseError("what it holds is no row")
        return Recorded(step, session, times, change, catalogue, opened(_bytes(content)))

    def newest_change(self) -> int:
        """The number of the last change; 0 where there is no row."""
        return _newest_change(self._connection)

    def changed(self, after: int) -> list[tuple[int, int]]:
        """The changes after that one which still count, and the step of each, in their order.

        It takes time for these rows alone, however many there are.
        """
        query = "SELECT change, step FROM steps WHERE change > ? ORDER BY change"
        found = self._connection.execute(query, (after,)).fetchall()
        return [(change, step) for change, step in found if _counts(change) and _counts(step)]

    def catalogue(self, digest: bytes) -> bytes:
        """The catalogue of that digest."""
        query = "SELECT content FROM catalogues WHERE digest = ?"
        found = self._connection.execute(query, (digest,)).fetchone()
        if found is None:
            raise sqlite3.DatabaseError("a catalogue is missing")
        return opened(_bytes(found[0]))


@contextmanager
def reading(path: str, patience_s: float = PATIENCE_S) -> Iterator[RecordReader]:
    """The rows in a store; NoStoreError for one that cannot be read, also meanwhile.

    One that somebody else has locked is waited for `patience_s`.
    """
    with _connection(path, patience_s) as connection:
        yield RecordReader(connection)


@contextmanager
def _connection(path: str, patience_s: float = PATIENCE_S) -> Iterator[sqlite3.Connection]:
    """A connection to a recorded run; what fails meanwhile is a NoStoreError."""
    try:
        problem = problem_of(path, RECORDED)
    except OSError as error:
        raise NoStoreError(f"cannot be read: {error.strerror}") from error
    if problem is not None:
        raise NoStoreError(problem, is_damaged=True)
    try:
        with closing(connected(path, _TABLES, RECORDED, patience_s)) as connection:
            yield connection
    except FAULTS as error:
        raise NoStoreError(str(error), is_damaged=is_damage(error)) from error


def _newest_change(connection: sqlite3.Connection) -> int:
    (last,) = connection.execute("SELECT max(change) FROM steps").fetchone()
    return last if _counts(last) else 0


def _counts(value: Any) -> bool:
    return type(value) is int and value >= 0


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise sqlite3.DatabaseError("what it holds is no bytes")
    return value
