"""The connection to a store: a file of this user's, and SQLite told to believe little of it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final
from urllib.parse import quote

from gradtool.storage.rows.header import APPLICATION, VERSION
from gradtool.storage.rows.place import NoStoreError

PATIENCE_S: Final = 5.0
"""How long another process that writes is waited for."""

_LARGEST_BLOB: Final = 64 << 20

FAULTS: Final = (sqlite3.Error, UnicodeError)
"""What SQLite raises; of a damaged file its words may be no text."""

_TABLES: Final = (
    "CREATE TABLE catalogues (digest BLOB PRIMARY KEY, content BLOB)",
    "CREATE TABLE dumps (nth INTEGER PRIMARY KEY, key BLOB UNIQUE, catalogue BLOB, content BLOB)",
    "CREATE TABLE judged (key BLOB, policy BLOB, content BLOB, PRIMARY KEY (key, policy))",
)


def is_damage(error: Exception) -> bool:
    """Whether an error is the store's fault: others are of locks, disks and permissions."""
    is_of_database = isinstance(error, sqlite3.DatabaseError | UnicodeError)
    return is_of_database and not isinstance(error, sqlite3.OperationalError)


def make(path: str) -> None:
    """An empty file, for this user alone, where there is none."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.close(os.open(path, flags, 0o600))
    except FileExistsError:
        return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise NoStoreError(f"{path} cannot be made: {reason}") from error


def connected(
    path: str,
    tables: Sequence[str] = _TABLES,
    application: int = APPLICATION,
    patience_s: float = PATIENCE_S,
) -> sqlite3.Connection:
    """A connection to a store of ours, of these tables; sqlite3.Error for anything else."""
    where = f"file:{quote(os.path.abspath(path))}?mode=rw"
    connection = sqlite3.connect(where, timeout=patience_s, isolation_level=None, uri=True)
    try:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST_BLOB)
        for pragma in (
            "trusted_schema = OFF",
            "cell_size_check = ON",
            "mmap_size = 0",
            "temp_store = MEMORY",
            "synchronous = NORMAL",
        ):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("PRAGMA journal_mode = DELETE")
        if not _schema(connection):
            _lay_out(connection, tables, application)
        if _schema(connection) != sorted(tables):
            raise sqlite3.DatabaseError("its tables are not those of a store")
    except BaseException:
        connection.close()
        raise
    return connection


def _schema(connection: sqlite3.Connection) -> list[str]:
    """How its tables and all else were made, but for the indices that come with them."""
    found = connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    return sorted(str(sql) for (sql,) in found)


def _lay_out(connection: sqlite3.Connection, tables: Sequence[str], application: int) -> None:
    with transaction(connection):
        if _schema(connection):
            return  # another process was quicker
        connection.execute(f"PRAGMA application_id = {application}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        for table in tables:
            connection.execute(table)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing, with nobody else writing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with suppress(*FAULTS):
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
