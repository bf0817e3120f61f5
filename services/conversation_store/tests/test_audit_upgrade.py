"""The audit log of a database that an earlier release made, whose records have no marks."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest
from agentmesh_conversation_store.auditing import verify
from agentmesh_conversation_store.codec.events import ProtobufEvents
from agentmesh_conversation_store.domain.audit_keys import CUT_OVER
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.postgres import PostgresStorage
from agentmesh_conversation_store.storage.postgres import database as of_postgres
from agentmesh_conversation_store.storage.sqlite import SqliteStorage
from agentmesh_conversation_store.storage.sqlite import database as of_sqlite
from agentmesh_conversation_store.storage.sqlite.database import connect, migrate

from services.conversation_store.tests.audit_log import KEYS, sealer
from services.conversation_store.tests.support import ManualClock

Run = Callable[[str], Awaitable[None]]
_COLUMNS = "tenant, record_id, time, principal, method, resource, code, peer, trace_id, request_id"


def _insert(name: str) -> str:
    values = f"'acme', '{name}', 1, 'alice', 'm', 'r', 'OK', 'p', '', ''"
    return f"INSERT INTO audit_records ({_COLUMNS}, sequence) VALUES ({values}, 0)"  # noqa: S608  our own words


async def _without_marks(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    older = [one for one in of_postgres.migrations() if one[0] < 11]
    connection = await asyncpg.connect(url)
    with monkeypatch.context() as patch:
        patch.setattr(of_postgres, "migrations", lambda: older)
        await of_postgres.migrate(connection)
    await connection.close()


def _file_without_marks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = [one for one in of_sqlite.migrations() if one[0] < 12]
    connection = connect(path)
    with monkeypatch.context() as patch:
        patch.setattr(of_sqlite, "migrations", lambda: older)
        migrate(connection, ProtobufEvents().words)
    connection.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_what_stands_there_is_sealed_once_and_nothing_without_a_mark_later(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    url = request.getfixturevalue("postgres_url") if kind == "postgres" else ""
    path = tmp_path / "s.db"

    async def run(sql: str) -> None:
        if url:
            connection = await asyncpg.connect(url, server_settings={"agentmesh.tenants": "{*}"})
            await connection.execute(sql)
            await connection.close()
        else:
            with sqlite3.connect(path) as file:
                file.execute(sql)
            file.close()

    def storage() -> Storage:
        if url:
            return PostgresStorage(url, ProtobufEvents(), clock=clock, audit_keys=KEYS)
        return SqliteStorage(path, ProtobufEvents(), clock=clock, audit_keys=KEYS)

    if url:
        await _without_marks(url, monkeypatch)
    else:
        _file_without_marks(path, monkeypatch)
    await run(_insert("before"))
    upgraded = storage()
    await upgraded.open()
    (found,) = await verify(upgraded, KEYS, {})
    assert (found.problem, found.records, found.unsealed) == (None, 1, 0)
    # A replica of the earlier release is still at work.
    await run(_insert("meanwhile"))
    (found,) = await verify(upgraded, KEYS, {})
    assert (found.problem, found.unsealed) == (None, 1)
    await sealer(upgraded).seal_all()
    await upgraded.close()
    # It passes once, and not again because somebody says so, or forgets it and starts the store.
    clock.now += CUT_OVER
    for sql in (
        "INSERT INTO audit_cut_overs SELECT tenant, through * 2, signature FROM audit_cut_overs",
        "DROP TABLE audit_cut_overs" if not url else "TRUNCATE audit_cut_overs",
    )[: 1 if not url else 2]:
        await run(sql)
    again = storage()
    await again.open()
    await run(_insert("forged"))
    await sealer(again).seal_all()
    (found,) = await verify(again, KEYS, {})
    assert found.records == 2
    assert "not written by the store like this: forged" in str(found.problem)
    await again.close()
