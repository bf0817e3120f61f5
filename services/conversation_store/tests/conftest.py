"""Fixtures: a storage of each kind, and a running store."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from agentmesh_conversation_store.codec.events import ProtobufEvents
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.postgres import PostgresStorage
from agentmesh_conversation_store.storage.sqlite import SqliteStorage
from pydantic import SecretStr

from services.conversation_store.tests.audit_log import TABLES, Change
from services.conversation_store.tests.driver import Database, RunningStore
from services.conversation_store.tests.histories import World
from services.conversation_store.tests.support import AUDIT_KEYS, ManualClock


@pytest.fixture
def clock() -> ManualClock:
    """The clock of `storage`."""
    return ManualClock()


def _sqlite(folder: Path, clock: ManualClock) -> Storage:
    return SqliteStorage(folder / "s.db", ProtobufEvents(), clock=clock, audit_keys=AUDIT_KEYS)


def _postgres(url: str, clock: ManualClock) -> Storage:
    return PostgresStorage(url, ProtobufEvents(), clock=clock, audit_keys=AUDIT_KEYS)


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def storage(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[Storage]:
    """An empty storage of each kind, under a clock that moves when told to."""
    opened: Storage
    if request.param == "sqlite":
        opened = SqliteStorage(
            tmp_path / "s.db", ProtobufEvents(), clock=clock, audit_keys=AUDIT_KEYS
        )
    else:
        url = request.getfixturevalue("postgres_url")
        opened = _postgres(url, clock)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def world(storage: Storage, clock: ManualClock) -> World:
    """`storage`, and what is done to it."""
    return World(storage, clock)


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def replicas(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[list[Storage]]:
    """Two storages on one database; SQLite has one."""
    opened: list[Storage]
    if request.param == "sqlite":
        opened = [_sqlite(tmp_path, clock)] * 2
    else:
        url = request.getfixturevalue("postgres_url")
        opened = [_postgres(url, clock) for _ in range(2)]
    for storage in set(opened):
        await storage.open()
    yield opened
    for storage in set(opened):
        await storage.close()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Database:
    """The settings that give a store an empty database of each kind."""
    if request.param == "sqlite":
        return {}
    url = request.getfixturevalue("postgres_url")
    return {"postgres_url": SecretStr(url), "api_key_secret": SecretStr("pepper")}


@pytest_asyncio.fixture
async def store(tmp_path: Path, database: Database) -> AsyncIterator[RunningStore]:
    """A running store with quick leases."""
    running = await RunningStore.start(tmp_path / "data", **database)
    yield running
    await running.stop()


@pytest.fixture
def tamper(request: pytest.FixtureRequest, storage: Storage, tmp_path: Path) -> Change:
    """Changes the database behind the store's back, triggers and row-level security put aside."""

    async def in_postgres(sql: str) -> None:
        connection = await asyncpg.connect(request.getfixturevalue("postgres_url"))
        await connection.execute("SET agentmesh.tenants = '{*}'")
        for table in TABLES:
            await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        await connection.execute(sql)
        for table in TABLES:
            await connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
        await connection.close()

    async def in_sqlite(sql: str) -> None:
        connection = sqlite3.connect(tmp_path / "s.db")
        triggers = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'audit_%'"
        ).fetchall()
        statements = [
            "BEGIN",
            *(f"DROP TRIGGER {name}" for name, _ in triggers),
            sql,
            *(definition for _, definition in triggers),
            "COMMIT",
        ]
        connection.executescript(";".join(statements))
        connection.close()

    return in_postgres if "postgres" in request.node.callspec.id else in_sqlite


@pytest.fixture
def run_sql(request: pytest.FixtureRequest, storage: Storage, tmp_path: Path) -> Change:
    """Does to the database what its triggers let anybody do."""

    async def in_postgres(sql: str) -> None:
        connection = await asyncpg.connect(request.getfixturevalue("postgres_url"))
        try:
            await connection.execute("SET agentmesh.tenants = '{*}'")
            await connection.execute(sql)
        finally:
            await connection.close()

    async def in_sqlite(sql: str) -> None:
        connection = sqlite3.connect(tmp_path / "s.db")
        try:
            connection.execute(sql)
            connection.commit()
        finally:
            connection.close()

    return in_postgres if "postgres" in request.node.callspec.id else in_sqlite
