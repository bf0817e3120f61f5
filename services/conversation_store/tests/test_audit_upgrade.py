"""The audit log of a database that an earlier release made, whose records have no marks."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from agentmesh_conversation_store.auditing import verify
from agentmesh_conversation_store.codec.events import ProtobufEvents
from agentmesh_conversation_store.domain import audit_chain
from agentmesh_conversation_store.domain.audit_keys import CUT_OVER, AuditKeys, SealingKey
from agentmesh_conversation_store.domain.ledger import AuditRecord
from agentmesh_conversation_store.domain.rejections import Rejection
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.postgres import PostgresStorage
from agentmesh_conversation_store.storage.postgres import database as of_postgres
from agentmesh_conversation_store.storage.sql.tables import SEALS
from agentmesh_conversation_store.storage.sqlite import SqliteStorage
from agentmesh_conversation_store.storage.sqlite import database as of_sqlite
from agentmesh_conversation_store.storage.sqlite.database import connect, migrate

from services.conversation_store.tests.audit_log import KEYS, sealer
from services.conversation_store.tests.support import ManualClock

_COLUMNS = "tenant, record_id, time, principal, method, resource, code, peer, trace_id, request_id"


def _insert(name: str, tenant: str = "acme") -> str:
    values = f"'{tenant}', '{name}', 1, 'alice', 'm', 'r', 'OK', 'p', '', ''"
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


class OldDatabase:
    """One of a release whose audit records had no marks."""

    def __init__(self, clock: ManualClock, path: Path, url: str) -> None:
        self._clock = clock
        self._path = path
        self._url = url

    @property
    def is_postgres(self) -> bool:
        """Else it is SQLite."""
        return bool(self._url)

    async def make(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As the earlier release did."""
        if self._url:
            await _without_marks(self._url, monkeypatch)
        else:
            _file_without_marks(self._path, monkeypatch)

    async def run(self, sql: str) -> list[tuple[object, ...]]:
        """As its owner can; its rows."""
        if not self._url:
            with sqlite3.connect(self._path) as file:
                rows = file.execute(sql).fetchall()
            file.close()
            return rows
        connection = await asyncpg.connect(self._url, server_settings={"agentmesh.tenants": "{*}"})
        found = await connection.fetch(sql)
        await connection.close()
        return [tuple(row) for row in found]

    def storage(self, keys: AuditKeys = KEYS) -> Storage:
        """To be opened, by which it is upgraded."""
        if self._url:
            return PostgresStorage(self._url, ProtobufEvents(), clock=self._clock, audit_keys=keys)
        return SqliteStorage(self._path, ProtobufEvents(), clock=self._clock, audit_keys=keys)

    async def seal(self, keys: AuditKeys) -> None:
        """Seals what waits as the earlier release did: one batch for each tenant."""
        rows = await self.run(f"SELECT {_COLUMNS} FROM audit_records WHERE sequence = 0")  # noqa: S608  our own words
        for row in rows:
            record = AuditRecord(*row).at(1)  # type: ignore[arg-type]  # its columns
            made = _sealed_of_old(record, self._clock.now, keys.first)
            values = ", ".join(map(self._literal, SEALS.row(made)[:-1]))
            await self.run(f"INSERT INTO audit_seals VALUES ({values})")  # noqa: S608  our own words
        await self.run("UPDATE audit_records SET sequence = 1 WHERE sequence = 0")

    def _literal(self, value: object) -> str:
        if not isinstance(value, bytes):
            return f"'{value}'"
        return f"'\\x{value.hex()}'" if self._url else f"x'{value.hex()}'"


def _sealed_of_old(record: AuditRecord, at: int, key: SealingKey) -> audit_chain.Seal:
    bare = audit_chain.Seal(
        record.tenant, 1, 1, 1, at, audit_chain.FIRST_HASH, b"", b"", key.key_id
    )
    form, digests = audit_chain._FIRST_FORMAT, audit_chain._digests([record])
    digest = audit_chain._framed_digest(form, bare, digests)
    return replace(bare, hash=digest, signature=key.sign(digest))


@pytest.fixture(params=["sqlite", "postgres"])
async def old(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> OldDatabase:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    database = OldDatabase(clock, tmp_path / "s.db", url)
    await database.make(monkeypatch)
    return database


async def test_what_stands_there_is_sealed_once_and_nothing_without_a_mark_later(
    old: OldDatabase, clock: ManualClock
) -> None:
    await old.run(_insert("before"))
    upgraded = old.storage()
    await upgraded.open()
    (found,) = await verify(upgraded, KEYS, {})
    assert (found.problem, found.records, found.unsealed) == (None, 1, 0)
    # A replica of the earlier release is still at work.
    await old.run(_insert("meanwhile"))
    (found,) = await verify(upgraded, KEYS, {})
    assert (found.problem, found.unsealed) == (None, 1)
    await sealer(upgraded).seal_all()
    await upgraded.close()
    # It passes once, and not again because somebody says so, or forgets it and starts the store.
    clock.now += CUT_OVER
    await old.run(
        "INSERT INTO audit_cut_overs SELECT tenant, through * 2, signature FROM audit_cut_overs"
    )
    if old.is_postgres:
        await old.run("TRUNCATE audit_cut_overs")
    again = old.storage()
    await again.open()
    await old.run(_insert("forged"))
    await sealer(again).seal_all()
    (found,) = await verify(again, KEYS, {})
    assert found.records == 2
    assert "not written by the store like this: forged" in str(found.problem)
    await again.close()


async def test_an_upgrade_under_keys_that_sealed_nothing_there_is_refused(
    old: OldDatabase,
) -> None:
    await old.run(_insert("sealed"))
    await old.seal(KEYS)
    await old.run(_insert("waiting"))
    wrong = old.storage(AuditKeys([SealingKey(b"w" * 32)]))
    with pytest.raises(Rejection, match="AGENTMESH_AUDIT_KEY") as refused:
        await wrong.open()
    assert KEYS.first.key_id in refused.value.message
    before = await old.run("SELECT max(version) FROM schema_version")
    assert before == [(10 if old.is_postgres else 11,)], "nothing was changed"
    right = old.storage()
    await right.open()
    await old.run(_insert("meanwhile"))
    await sealer(right).seal_all()
    (found,) = await verify(right, KEYS, {})
    assert (found.problem, found.records, found.unsealed) == (None, 3, 0)
    await right.close()


async def test_an_upgrade_under_a_new_key_is_as_good_once_that_is_given_up(
    old: OldDatabase,
) -> None:
    await old.run(_insert("sealed"))
    await old.seal(KEYS)
    mistaken = old.storage(AuditKeys([SealingKey(b"m" * 32), KEYS.first]))
    await mistaken.open()
    await mistaken.close()
    right = old.storage()
    await right.open()
    await old.run(_insert("meanwhile"))
    await sealer(right).seal_all()
    (found,) = await verify(right, KEYS, {})
    assert (found.problem, found.records) == (None, 2)
    await right.close()


async def test_a_seal_that_somebody_changed_does_not_stop_an_upgrade(old: OldDatabase) -> None:
    await old.run(_insert("sealed"))
    await old.run(_insert("sealed", "other"))
    await old.seal(KEYS)
    for name in ("audit_seals_unchanged", "audit_seals_append_only"):
        off = f"DROP TRIGGER IF EXISTS {name}"
        await old.run(f"{off} ON audit_seals" if old.is_postgres else off)
    await old.run("UPDATE audit_seals SET key_id = 'forged' WHERE tenant = 'other'")
    upgraded = old.storage()
    await upgraded.open()
    found = {one.tenant: one.problem for one in await verify(upgraded, KEYS, {})}
    assert (found["acme"], "batch 1 " in str(found["other"])) == (None, True)
    await upgraded.close()
