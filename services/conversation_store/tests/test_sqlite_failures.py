"""What callers are told of a SQLite file that fails, and that it is no worse than that."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from agentmesh_conversation_store.codec.events import ProtobufEvents
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.storage.sql.plan import Plan, fetch
from agentmesh_conversation_store.storage.sqlite import SqliteStorage, readers, writer
from agentmesh_conversation_store.storage.sqlite.database import as_rejection

from services.conversation_store.tests.support import start_command

AWAY, FULL, DAMAGED = Reason.DATABASE_UNAVAILABLE, Reason.STORAGE_FULL, Reason.CORRUPT


def _error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("it says so")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (sqlite3.SQLITE_FULL, FULL),
        (sqlite3.SQLITE_IOERR_WRITE, FULL),
        (sqlite3.SQLITE_IOERR_READ, AWAY),
        (sqlite3.SQLITE_IOERR_FSYNC, AWAY),
        (sqlite3.SQLITE_BUSY, AWAY),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, AWAY),
        (sqlite3.SQLITE_LOCKED, AWAY),
        (sqlite3.SQLITE_CANTOPEN, AWAY),
        (sqlite3.SQLITE_NOMEM, AWAY),
        (sqlite3.SQLITE_PROTOCOL, AWAY),
        (sqlite3.SQLITE_READONLY, AWAY),
        (sqlite3.SQLITE_READONLY_DBMOVED, AWAY),
        (sqlite3.SQLITE_CORRUPT, DAMAGED),
        (sqlite3.SQLITE_CORRUPT_INDEX, DAMAGED),
        (sqlite3.SQLITE_NOTADB, DAMAGED),
    ],
)
def test_each_failure_has_its_reason(code: int, reason: Reason) -> None:
    rejection = as_rejection(_error(code))
    assert rejection is not None
    assert rejection.reason is reason


@pytest.mark.parametrize("code", [sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT_UNIQUE])
def test_a_defect_stays_one(code: int) -> None:
    assert as_rejection(_error(code)) is None
    assert as_rejection(sqlite3.ProgrammingError("no code")) is None


async def _storage(folder: Path) -> SqliteStorage:
    storage = SqliteStorage(folder / "s.db", ProtobufEvents(), readers=1)
    await storage.open()
    return storage


async def test_a_reader_that_could_not_open_the_file_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await _storage(tmp_path)
    view = await storage.execute(start_command())
    conversation_id = view.conversation.conversation_id
    with monkeypatch.context() as patch:

        def fails(*_: Any, **__: Any) -> None:
            raise _error(sqlite3.SQLITE_CANTOPEN)

        patch.setattr(readers, "connect", fails)
        with pytest.raises(Rejection) as refused:
            await storage.conversation("acme", conversation_id)
        assert refused.value.reason is AWAY
    assert await storage.conversation("acme", conversation_id) == view
    await storage.close()


async def test_a_writer_that_cannot_open_the_file_says_so_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Path) -> None:
        raise _error(sqlite3.SQLITE_CANTOPEN)

    monkeypatch.setattr(writer, "connect", fails)
    with pytest.raises(Rejection) as refused:
        await _storage(tmp_path)
    assert refused.value.reason is AWAY


async def test_an_error_that_ends_its_transaction_is_not_hidden_by_that(tmp_path: Path) -> None:
    storage = await _storage(tmp_path)

    def ends_and_fails() -> Plan[None]:
        yield from fetch("ROLLBACK")
        yield from fetch("SELECT * FROM nowhere")

    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        await storage._readers.run(ends_and_fails())
    await storage.execute(start_command())
    await storage.close()


async def test_a_damaged_file_is_told_from_one_that_is_away(tmp_path: Path) -> None:
    storage = await _storage(tmp_path)
    view = await storage.execute(start_command())
    await storage.close()
    path = tmp_path / "s.db"
    connection = sqlite3.connect(path)
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    root = "SELECT rootpage FROM sqlite_master WHERE name = 'conversations'"
    ((page,),) = connection.execute(root).fetchall()
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * size)
    damaged = await _storage(tmp_path)
    with pytest.raises(Rejection) as refused:
        await damaged.conversation("acme", view.conversation.conversation_id)
    assert refused.value.reason is DAMAGED
    with pytest.raises(Rejection) as refused:
        await damaged.execute(start_command())
    assert refused.value.reason is DAMAGED
    await damaged.close()
    path.write_bytes(b"no database at all " * 1000)
    with pytest.raises(Rejection) as refused:
        await _storage(tmp_path)
    assert refused.value.reason is DAMAGED
