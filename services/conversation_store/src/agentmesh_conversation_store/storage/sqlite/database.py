"""Connections to one SQLite file, and its schema."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from agentmesh_conversation_store.domain.rejections import Reason, Rejection

BUSY_SECONDS = 10.0
_BUSY_STEP = 0.005
_CACHED_STATEMENTS = 512
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}
_AWAY = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,  # as file systems become when their disk fails
}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_NO_TEXT = "Could not decode to UTF-8"
"""What Python's module says of text that somebody else wrote; SQLite has no code for that."""


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection in WAL mode whose acknowledged commits survive a power cut."""
    connection = sqlite3.connect(
        path,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_CACHED_STATEMENTS,
    )
    _use_wal(connection)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA temp_store = MEMORY")
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switches to WAL mode. Those that open a new file at once meet here.

    SQLite answers "locked" to this switch without the wait that its timeout asks for, because two
    that wait for each other would wait for ever.
    """
    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
        time.sleep(_BUSY_STEP)


def migrations() -> list[tuple[int, str]]:
    """The numbered schema files, in order, as (version, SQL)."""
    folder = resources.files(__package__) / "migrations"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return [(int(f.name.split("_", 1)[0]), f.read_text("utf-8")) for f in files]


def migrate(
    connection: sqlite3.Connection,
    words: Callable[[bytes], str],
    migrated: Callable[[sqlite3.Connection, int], None] = lambda connection, before: None,
) -> int:
    """Brings the schema up to date and returns its version.

    `words` gives the words that search finds an event by; a migration may ask for them. `migrated`
    does in the same transaction what SQL cannot; it hears what schema there was before, 0 for none.

    The write lock is held from the look at the version to its update, so that processes that
    start at once migrate once. A database of a newer release is refused.
    """
    connection.create_function("agentmesh_words", 1, words)
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY)"
        )
        (current,) = connection.execute(
            "SELECT coalesce(max(version), 0) FROM schema_version"
        ).fetchone()
        known = migrations()
        newest = known[-1][0]
        if current > newest:
            raise Rejection(
                Reason.DATABASE_UNAVAILABLE,
                f"the database has schema {current}, this release knows {newest}: upgrade it",
            )
        for version, sql in known:
            if version > current:
                for statement in _statements(sql):
                    connection.execute(statement)
                connection.execute("INSERT INTO schema_version VALUES (?)", (version,))
        migrated(connection, current)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return int(newest)


def _statements(sql: str) -> list[str]:
    """Whole statements: `executescript` would commit the transaction that guards them."""
    statements, current = [], ""
    for line in sql.splitlines():
        current += line + "\n"
        if sqlite3.complete_statement(current):
            statements.append(current)
            current = ""
    return statements


def as_rejection(error: sqlite3.Error) -> Rejection | None:
    """What a failure of the database means for the caller; None for a defect of ours."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None and str(error).startswith(_NO_TEXT):
        return Rejection(Reason.CORRUPT, f"the store's database is damaged: {error}")
    if code in _FULL:
        return Rejection(Reason.STORAGE_FULL, "the disk of the store is full; nothing was written")
    if code is not None and (code & 0xFF) in _DAMAGED:
        return Rejection(Reason.CORRUPT, f"the store's database is damaged: {error}")
    if code is not None and (code & 0xFF) in _AWAY:
        return Rejection(
            Reason.DATABASE_UNAVAILABLE, f"the store's database does not answer: {error}"
        )
    return None
