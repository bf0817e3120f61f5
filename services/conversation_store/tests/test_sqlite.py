"""What is particular to SQLite: durability, migrations, a full disk."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from agentmesh_conversation_store.codec.events import ProtobufEvents
from agentmesh_conversation_store.domain.conversations import SendMessage
from agentmesh_conversation_store.domain.events import UserMessage
from agentmesh_conversation_store.domain.model import Strategy
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.storage.sql.plan import fetch
from agentmesh_conversation_store.storage.sqlite import SqliteStorage, database
from agentmesh_conversation_store.storage.sqlite.database import connect, migrate, migrations

from services.conversation_store.tests.support import fresh, start_command


def _message(conversation_id: str, content: str) -> SendMessage:
    body = UserMessage(fresh("msg"), "user", content, "alice")
    return SendMessage("acme", conversation_id, body, Strategy.AFTER_TURN, fresh("run"), "")


async def test_a_full_disk_is_said_and_harms_nothing(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "s.db", ProtobufEvents())
    await storage.open()
    view = await storage.execute(start_command())
    cid = view.conversation.conversation_id
    await storage._writer.run(lambda _: fetch("PRAGMA max_page_count = 120"))
    written = 0

    async def write_on() -> None:
        nonlocal written
        for _ in range(200):
            await storage.execute(_message(cid, "x" * 10_000))
            written += 1

    with pytest.raises(Rejection) as refused:
        await write_on()
    assert refused.value.reason is Reason.STORAGE_FULL
    assert written > 0
    events = await storage.events("acme", cid, 0, 1000, 10**9)
    assert [event.sequence for event in events] == list(range(1, written + 4))
    await storage._writer.run(lambda _: fetch("PRAGMA max_page_count = 100000"))
    sent = await storage.execute(_message(cid, "there is room again"))
    assert sent.sequence == written + 4
    await storage.close()
    check = sqlite3.connect(tmp_path / "s.db")
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()


async def test_what_was_acknowledged_survives(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "s.db", ProtobufEvents())
    await storage.open()
    view = await storage.execute(start_command())
    await storage.close()
    with pytest.raises(Rejection) as refused:
        await storage.execute(start_command())
    assert refused.value.reason is Reason.DATABASE_UNAVAILABLE
    again = SqliteStorage(tmp_path / "s.db", ProtobufEvents())
    await again.open()
    found = await again.conversation("acme", view.conversation.conversation_id)
    assert found == view
    await again.close()


def _migrate(path: str) -> int:
    connection = connect(Path(path))
    try:
        return migrate(connection, ProtobufEvents().words)
    finally:
        connection.close()


@pytest.mark.parametrize("attempt", range(20))
def test_those_that_start_at_once_migrate_once(tmp_path: Path, attempt: int) -> None:
    path = str(tmp_path / f"{attempt}.db")
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(_migrate, [path] * 8)) == {migrations()[-1][0]}
    connection = sqlite3.connect(path)
    versions = connection.execute("SELECT version FROM schema_version").fetchall()
    assert versions == [(version,) for version, _ in migrations()]
    connection.close()


def _at_schema(path: Path, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that an older release made."""
    older = [one for one in migrations() if one[0] <= version]
    with monkeypatch.context() as patch:
        patch.setattr(database, "migrations", lambda: older)
        assert _migrate(str(path)) == version


def test_who_comes_while_another_migrates_waits_and_finds_it_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    *_, (before, _), (newest, sql) = migrations()
    _at_schema(path, before, monkeypatch)
    first, second = connect(path), connect(path)
    first.create_function("agentmesh_words", 1, ProtobufEvents().words)
    first.execute("BEGIN IMMEDIATE")
    looked = threading.Event()

    def hear(statement: str) -> None:
        if "max(version)" in statement:
            looked.set()

    second.set_trace_callback(hear)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(migrate, second, ProtobufEvents().words)
        # Whoever looks before it holds the lock does so by now.
        looked.wait(0.5)
        for statement in database._statements(sql):
            first.execute(statement)
        first.execute("INSERT INTO schema_version VALUES (?)", (newest,))
        first.execute("COMMIT")
        assert waiting.result() == newest
    versions = second.execute("SELECT version FROM schema_version").fetchall()
    assert versions == [(version,) for version, _ in migrations()]
    first.close()
    second.close()


def test_a_migration_that_fails_leaves_the_database_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    known = migrations()
    *_, (before, _), (newest, _) = known
    _at_schema(path, before, monkeypatch)
    connection = connect(path)
    tables = "SELECT name, sql FROM sqlite_master ORDER BY name"
    schema = connection.execute(tables).fetchall()
    fails = "CREATE TABLE half (x);\nINSERT INTO nowhere VALUES (1);\n"
    broken = [*known, (newest + 1, fails)]
    with monkeypatch.context() as patch:
        patch.setattr(database, "migrations", lambda: broken)
        with pytest.raises(sqlite3.OperationalError, match="nowhere"):
            migrate(connection, ProtobufEvents().words)
    # Neither that one nor those before it, and others can have the database again.
    assert not connection.in_transaction
    assert connection.execute(tables).fetchall() == schema
    assert connection.execute("SELECT max(version) FROM schema_version").fetchone() == (before,)
    assert _migrate(str(path)) == newest
    connection.close()


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    _migrate(str(path))
    connection = connect(path)
    connection.execute("INSERT INTO schema_version VALUES (999)")
    with pytest.raises(Rejection, match="999"):
        migrate(connection, ProtobufEvents().words)
    connection.close()


async def test_a_cancelled_caller_does_not_undo_what_was_asked_for(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "s.db", ProtobufEvents())
    await storage.open()
    view = await storage.execute(start_command())
    cid = view.conversation.conversation_id
    impatient = [asyncio.create_task(storage.execute(_message(cid, "x"))) for _ in range(20)]
    await asyncio.sleep(0)
    for task in impatient:
        task.cancel()
    sent = await storage.execute(_message(cid, "patient"))
    assert sent.sequence == 24
    await storage.close()
